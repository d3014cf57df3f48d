"""Runs an agent's function to its end and reports that end."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable
from typing import Any

from .agent import Agent
from .assignment import Assignment
from .errors import Cancelled, Failed, Fenced, Refused
from .job import Job, to_json
from .v1 import agent_host_service_pb2 as pb

log = logging.getLogger("arcpd_agent")


def run_job(agent: Agent, assignment: Assignment) -> None:
    """The whole life of a job's thread."""
    try:
        complete = _outcome(agent, assignment)
        try:
            assignment.add(pb.Report(complete=complete))
        except ValueError as error:
            # Too large to be sent at all.
            failed = _failure("INTERNAL_ERROR", f"the result: {error}; use job.write()")
            assignment.add(pb.Report(complete=failed))
    except Fenced as fenced:
        log.warning("job %s is no longer ours: %s", assignment.ref.job_id, fenced)


def _outcome(agent: Agent, assignment: Assignment) -> pb.Complete:
    try:
        job = Job(assignment)
        returned = _call(agent, job, assignment)
        if assignment.stopped.is_set():
            return pb.Complete(cancelled=pb.Cancelled())
        if job.has_parts:
            summary = "" if returned is None else str(returned)
            return pb.Complete(parts=pb.ResultSummary(summary=summary))
        return pb.Complete(result_json=to_json(returned))
    except Cancelled:
        return pb.Complete(cancelled=pb.Cancelled())
    except Fenced:
        raise
    except Failed as error:
        details = to_json(error.details) if error.details else ""
        return _failure(error.code, error.message, error.retryable, details)
    except Refused as error:
        return _failure(error.code, error.message)
    except asyncio.CancelledError:
        if assignment.stopped.is_set():
            return pb.Complete(cancelled=pb.Cancelled())
        return _failure("INTERNAL_ERROR", "the agent's task was cancelled by itself")
    except BaseException as error:
        log.exception("job %s failed", assignment.ref.job_id)
        return _failure("INTERNAL_ERROR", f"{type(error).__name__}: {error}")


def _failure(
    code: str, message: str, retryable: bool = False, details_json: str = ""
) -> pb.Complete:
    # A character has at most four bytes; a message must not outgrow a frame.
    return pb.Complete(
        failure=pb.Failure(
            code=code,
            message=message[:16_384],
            retryable=retryable,
            details_json=details_json,
        )
    )


def _call(agent: Agent, job: Job, assignment: Assignment) -> Any:
    returned = agent.function(job)
    if not inspect.isawaitable(returned):
        return returned
    return asyncio.run(_await(returned, assignment))


async def _await(returned: Awaitable[Any], assignment: Assignment) -> Any:
    task = asyncio.ensure_future(returned)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        try:
            loop.call_soon_threadsafe(task.cancel)
        except RuntimeError:
            # The loop is closed: the task has just ended.
            pass

    assignment.on_stop = stop
    if assignment.stopped.is_set():
        # It was set before there was anybody to call.
        task.cancel()
    return await task
