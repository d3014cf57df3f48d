"""Cancel, fence and drain: what reaches the agent's function, and what is said of it."""

from __future__ import annotations

import asyncio
import queue
import threading

import pytest
from arcpd_agent import Agent, Cancelled, Failed, Fenced, Job
from arcpd_agent.v1 import agent_host_service_pb2 as pb
from fake import TIMEOUT, FakeRuntime, Running, Stream


def until_complete(stream: Stream) -> pb.Complete:
    while True:
        reports = stream.expect("reports").reports
        if reports[-1].HasField("complete"):
            return reports[-1].complete


def test_a_cancel_wakes_and_ends_with_cancelled(runtime: FakeRuntime) -> None:
    raised: queue.Queue[BaseException] = queue.Queue()

    def agent(job: Job) -> None:
        assert job.cancelled.wait(TIMEOUT)
        try:
            try:
                job.log("still here")
            except Exception:
                pass
        except BaseException as error:
            raised.put(error)
            raise

    Running(runtime, Agent("a", "1", agent))
    stream = runtime.stream()
    stream.register()
    ref = stream.assign()
    stream.say(cancel=pb.Cancel(ref=ref, reason="enough"))
    assert until_complete(stream).HasField("cancelled")
    assert isinstance(raised.get(timeout=TIMEOUT), Cancelled)


def test_a_function_that_returns_after_a_cancel_was_cancelled(runtime: FakeRuntime) -> None:
    Running(runtime, Agent("a", "1", lambda job: job.cancelled.wait(TIMEOUT)))
    stream = runtime.stream()
    stream.register()
    ref = stream.assign()
    stream.say(cancel=pb.Cancel(ref=ref))
    assert until_complete(stream).HasField("cancelled")


def test_an_async_agent_is_cancelled_at_its_await(runtime: FakeRuntime) -> None:
    async def agent(job: Job) -> None:
        job.log("begun")
        await asyncio.sleep(3600)

    Running(runtime, Agent("a", "1", agent))
    stream = runtime.stream()
    stream.register()
    ref = stream.assign()
    stream.reports(1)
    stream.say(cancel=pb.Cancel(ref=ref))
    assert until_complete(stream).HasField("cancelled")


def test_an_async_agent_returns_a_result(runtime: FakeRuntime) -> None:
    async def agent(job: Job) -> object:
        await asyncio.sleep(0)
        return {"doubled": job.input * 2}

    Running(runtime, Agent("a", "1", agent))
    stream = runtime.stream()
    stream.register()
    stream.assign(input_json="21")
    assert until_complete(stream).result_json == '{"doubled":42}'


def test_a_revoked_job_stops_and_says_nothing_more(runtime: FakeRuntime) -> None:
    raised: queue.Queue[BaseException] = queue.Queue()

    def agent(job: Job) -> None:
        try:
            assert job.cancelled.wait(TIMEOUT)
            job.log("nobody may see this")
        except BaseException as error:
            raised.put(error)
            raise

    Running(runtime, Agent("a", "1", agent))
    stream = runtime.stream()
    stream.register()
    ref = stream.assign()
    stream.say(revoked=pb.Revoked(ref=ref, reason="another has it"))
    error = raised.get(timeout=TIMEOUT)
    assert isinstance(error, Fenced) and "another has it" in str(error)
    assert stream.quiet()
    # The same job may come back, under another token.
    again = stream.assign(token="t2")
    stream.say(revoked=pb.Revoked(ref=ref))
    stream.say(cancel=pb.Cancel(ref=again))
    assert until_complete(stream).HasField("cancelled")


def test_what_is_dropped_after_a_reconnect_is_fenced(runtime: FakeRuntime) -> None:
    raised: queue.Queue[BaseException] = queue.Queue()

    def agent(job: Job) -> None:
        try:
            assert job.cancelled.wait(TIMEOUT)
            job.log("late")
        except BaseException as error:
            raised.put(error)
            raise

    Running(runtime, Agent("a", "1", agent))
    first = runtime.stream()
    first.register()
    ref = first.assign()
    first.end()
    second = runtime.stream()
    register = second.register(drop=[ref])
    assert [held.ref for held in register.resume] == [ref]
    assert isinstance(raised.get(timeout=TIMEOUT), Fenced)
    assert second.quiet()


def test_a_cancel_missed_while_away_is_heard_on_return(runtime: FakeRuntime) -> None:
    Running(runtime, Agent("a", "1", lambda job: job.cancelled.wait(TIMEOUT)))
    first = runtime.stream()
    first.register()
    ref = first.assign()
    first.end()
    second = runtime.stream()
    second.register(keep=[pb.KeptAssignment(ref=ref, cancelled=True)])
    assert until_complete(second).HasField("cancelled")


@pytest.mark.parametrize(
    ("error", "code", "message", "retryable"),
    [
        (Failed("BUDGET_EXHAUSTED", "no money", True), "BUDGET_EXHAUSTED", "no money", True),
        (KeyError("text"), "INTERNAL_ERROR", "KeyError: 'text'", False),
        (SystemExit(3), "INTERNAL_ERROR", "SystemExit: 3", False),
    ],
)
def test_what_is_raised_is_how_the_job_fails(
    runtime: FakeRuntime, error: BaseException, code: str, message: str, retryable: bool
) -> None:
    def agent(job: Job) -> None:
        raise error

    Running(runtime, Agent("a", "1", agent))
    stream = runtime.stream()
    stream.register()
    stream.assign()
    failure = until_complete(stream).failure
    assert (failure.code, failure.message, failure.retryable) == (code, message, retryable)


def test_what_is_no_json_fails_the_job(runtime: FakeRuntime) -> None:
    Running(runtime, Agent("a", "1", lambda job: {1, 2}))
    stream = runtime.stream()
    stream.register()
    stream.assign()
    assert "not JSON serializable" in until_complete(stream).failure.message


def test_a_result_too_large_for_any_message_fails_the_job(runtime: FakeRuntime) -> None:
    Running(runtime, Agent("a", "1", lambda job: "x" * 2_000_000))
    stream = runtime.stream()
    stream.register()
    stream.assign()
    assert "use job.write()" in until_complete(stream).failure.message


def test_a_host_that_stops_takes_nothing_new_and_ends_with_its_last_job(
    runtime: FakeRuntime,
) -> None:
    go_on = threading.Event()
    running = Running(runtime, Agent("a", "1", lambda job: go_on.wait(TIMEOUT)))
    stream = runtime.stream()
    stream.register()
    ref = stream.assign()
    running.host.stop()
    stream.expect("draining")
    other = pb.AssignmentRef(job_id="j2", lease_token="t2")
    stream.say(assign=pb.Assign(ref=other, agent="a", version="1"))
    assert stream.expect("decline").ref == other
    go_on.set()
    assert until_complete(stream).result_json == "true"
    stream.say(ack=pb.Ack(ref=ref, seq=1))
    assert stream.ends()
    stream.end()
    running.result()


def test_what_runs_at_the_drain_deadline_is_given_back(runtime: FakeRuntime) -> None:
    fenced = threading.Event()

    def agent(job: Job) -> None:
        job.cancelled.wait(TIMEOUT)
        fenced.set()

    running = Running(runtime, Agent("a", "1", agent), drain_sec=0.05)
    stream = runtime.stream()
    stream.register()
    ref = stream.assign()
    running.host.stop()
    stream.expect("draining")
    assert stream.expect("decline").ref == ref
    assert stream.ends() and fenced.wait(TIMEOUT)
    stream.end()
    running.result()
