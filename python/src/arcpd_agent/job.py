"""What an agent's function is given: its input, and the ways to report."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

from .assignment import Assignment
from .credential import Credential
from .errors import Refused, Stopped
from .question import Child, Delegation, Question
from .v1 import agent_host_service_pb2 as pb
from .v1 import event_pb2 as event

# Of one part of a streamed result; a character has at most four bytes.
PART_BYTES = 256 * 1024
PART_CHARS = PART_BYTES // 4


def to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Job:
    """One job. Reports may come from any thread.

    A report returns as soon as it is in line; it waits while the runtime has too
    many that are not yet durable, and raises `Cancelled` or `Fenced` (both are
    `Stopped`) when the job is to stop.
    """

    def __init__(self, assignment: Assignment) -> None:
        assign = assignment.assign
        self._assignment = assignment
        self.id: str = assign.ref.job_id
        self.agent: str = assign.agent
        self.version: str = assign.version
        self.input: Any = json.loads(assign.input_json or "null")
        # 1 for the first.
        self.attempt: int = assign.attempt
        # What an earlier attempt saved last.
        self.checkpoint: bytes | None = assign.checkpoint or None
        self.principal: str = assign.principal
        # W3C trace context, for spans of one's own: they belong below this.
        self.traceparent: str = assign.traceparent
        self.tracestate: str = assign.tracestate
        self.baggage: str = assign.baggage
        # When the runtime ends the job.
        self.deadline: datetime | None = None
        if assign.HasField("deadline"):
            self.deadline = assign.deadline.ToDatetime(tzinfo=timezone.utc)
        # What the job may do: capability to patterns. The runtime decides, not this.
        self.lease: dict[str, list[str]] = json.loads(assign.lease_json or "{}")
        self.lease_expires_at: datetime | None = None
        if assign.HasField("lease_expires_at"):
            self.lease_expires_at = assign.lease_expires_at.ToDatetime(tzinfo=timezone.utc)
        # The job that delegated this one.
        self.parent_id: str | None = assign.parent_job_id or None
        self.has_parts = False

    @property
    def cancelled(self) -> threading.Event:
        """Set when the job is to stop; also when it is no longer this host's."""
        return self._assignment.stopped

    @property
    def credentials(self) -> tuple[Credential, ...]:
        """What was made for this job alone. Read it before each use: a value that ends
        before the job is replaced."""
        return self._assignment.wallet.all()

    def _event(self, **body: Any) -> None:
        made = event.JobEvent(**body)
        made.ts.GetCurrentTime()
        self._assignment.add(pb.Report(event=made))

    def log(self, message: str, level: str = "info", **attributes: Any) -> None:
        text = to_json(attributes) if attributes else ""
        self._event(log=event.Log(level=level, message=message, attributes_json=text))

    def thought(self, text: str) -> None:
        self._event(thought=event.Thought(text=text))

    def status(self, phase: str, message: str = "") -> None:
        self._event(status=event.Status(phase=phase, message=message))

    def progress(
        self, current: float, total: float | None = None, units: str = "", message: str = ""
    ) -> None:
        made = event.Progress(current=current, total=total, units=units, message=message)
        self._event(progress=made)

    def metric(self, name: str, value: float, unit: str = "", **dimensions: str) -> None:
        made = event.Metric(name=name, value=value, unit=unit, dimensions=dimensions)
        self._event(metric=made)

    def cost(self, name: str, value: float, unit: str) -> None:
        """A metric `cost.<name>`: taken from the job's budget in that unit."""
        self.metric(name if name.startswith("cost.") else f"cost.{name}", value, unit)

    def authorize(self, capability: str, target: str, call_id: str = "") -> None:
        """Asks before an operation; returns if it is allowed and raises `Refused` if not.

        With a `call_id` a refusal is also the `tool_result` of that call in the job's
        stream, which the agent then does not report.
        """
        for field, text, limit in (
            ("call_id", call_id, 128), ("capability", capability, 128), ("target", target, 4096),
        ):
            if len(text.encode()) > limit:
                raise Refused("INVALID_REQUEST", f"{field}: longer than {limit} bytes")
        made = pb.Authorize(
            ref=self._assignment.ref, call_id=call_id, capability=capability, target=target
        )
        question = Question(pb.ServeRequest(authorize=made))
        self._assignment.ask(question)
        question.answered.result()

    def delegate(
        self,
        agent: str,
        input: Any = None,
        *,
        lease: Mapping[str, Sequence[str]] | None = None,
        expires_at: datetime | None = None,
        delegate_id: str | None = None,
    ) -> Child:
        """Makes a child job within this one's lease and budget; raises `Refused`.

        `delegate_id` is this job's name for the child: an attempt that runs again finds
        the child of the same name, where the rest is the same too. Without it every call
        makes a new one. `expires_at` needs a time zone.
        """
        made = pb.DelegateJob(
            ref=self._assignment.ref,
            delegate_id=delegate_id or f"child_{uuid.uuid4().hex[:12]}",
            agent=agent,
            input_json=to_json(input),
            lease_request_json=to_json(lease) if lease else "",
        )
        for field, text, limit in (
            ("delegate_id", made.delegate_id, 128), ("agent", agent, 256),
        ):
            if len(text.encode()) > limit:
                raise Refused("INVALID_REQUEST", f"{field}: longer than {limit} bytes")
        if expires_at is not None:
            if expires_at.tzinfo is None:
                raise ValueError("expires_at: has no time zone")
            made.lease_expires_at.FromDatetime(expires_at)
        delegation = Delegation(pb.ServeRequest(delegate=made))
        self._assignment.ask(delegation)
        delegation.answered.result()
        return Child(delegation)

    def event(self, kind: str, body: Any) -> None:
        """A kind of one's own: `x-vendor.<vendor>.<name>`."""
        self._event(other=event.OtherEvent(kind=kind, body_json=to_json(body)))

    def tool(self, name: str, args: Any = None) -> ToolCall:
        """Reports a tool call around a block:

        with job.tool("search", {"query": q}) as call:
            call.authorize("tool.call", "search")
            call.result = search(q)
        """
        return ToolCall(self, name, args)

    def write(self, part: str | bytes) -> None:
        """The next part of a result that is streamed: all of it text, or all bytes.

        What the function returns is then a summary for people, or nothing.
        """
        self.has_parts = True
        step = PART_CHARS if isinstance(part, str) else PART_BYTES
        for start in range(0, len(part), step):
            piece = part[start : start + step]
            made = (
                pb.ResultPart(text=piece)
                if isinstance(piece, str)
                else pb.ResultPart(data=bytes(piece))
            )
            self._assignment.add(pb.Report(result_part=made))

    def save_checkpoint(self, state: bytes) -> None:
        """Given to the next attempt as `checkpoint`, under loss policy "checkpoint";
        at most 256 KiB."""
        if len(state) > 256 * 1024:
            raise ValueError(f"a checkpoint of {len(state)} bytes: the limit is 256 KiB")
        self._assignment.add(pb.Report(checkpoint=pb.Checkpoint(state=state)))


class ToolCall:
    """`tool_call` on the way in, `tool_result` on the way out."""

    def __init__(self, job: Job, name: str, args: Any) -> None:
        self._job = job
        self._name = name
        self._args = args
        self.id = f"call_{uuid.uuid4().hex[:12]}"
        self.result: Any = None
        self._refused: Refused | None = None

    def authorize(self, capability: str, target: str) -> None:
        """As `Job.authorize`, for this call: its refusal is the call's result."""
        try:
            self._job.authorize(capability, target, self.id)
        except Refused as refused:
            self._refused = refused
            raise

    def __enter__(self) -> ToolCall:
        args = "" if self._args is None else to_json(self._args)
        call = event.ToolCall(tool=self._name, call_id=self.id, args_json=args)
        self._job._event(tool_call=call)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        made = event.ToolResult(call_id=self.id)
        if isinstance(error, Stopped):
            # Nothing is taken from it any more.
            return
        if error is not None and error is self._refused:
            # The runtime has written that.
            return
        if error is None:
            made.result_json = to_json(self.result)
        else:
            text = str(error) or type(error).__name__
            made.error_json = to_json({"code": "INTERNAL_ERROR", "message": text})
        self._job._event(tool_result=made)
