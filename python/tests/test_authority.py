"""Leave to act, costs and children, also over a broken stream."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

import pytest
from arcpd_agent import Agent, Cancelled, Failed, Job, Refused
from arcpd_agent.v1 import agent_host_service_pb2 as pb
from arcpd_agent.v1 import envelope_pb2 as envelope
from fake import TIMEOUT, FakeRuntime, Running, Stream


class Script:
    """A job in a thread of the host; `result()` is what its function returned."""

    def __init__(self, runtime: FakeRuntime, function: Any, **assign: Any) -> None:
        self.outcome: Any = None
        self._done = threading.Event()

        def run(job: Job) -> object:
            try:
                self.outcome = function(job)
                return self.outcome
            except BaseException as error:
                self.outcome = error
                raise
            finally:
                self._done.set()

        Running(runtime, Agent("a", "1", run))
        self.stream: Stream = runtime.stream()
        self.stream.register()
        self.ref = self.stream.assign(**assign)

    def result(self) -> Any:
        assert self._done.wait(TIMEOUT)
        return self.outcome


def test_what_was_reported_goes_before_what_is_asked(runtime: FakeRuntime) -> None:
    def agent(job: Job) -> object:
        for _ in range(100):
            job.cost("step", 0.01, "USD")
        job.authorize("tool.call", "search", "c1")
        with pytest.raises(Refused) as refused:
            job.authorize("tool.call", "shell", call_id="c2")
        return refused.value.code

    script = Script(runtime, agent)
    reports = script.stream.reports(100)
    assert len(reports) == 100
    metric = reports[0].event.metric
    assert (metric.name, metric.value, metric.unit) == ("cost.step", 0.01, "USD")
    asked = script.stream.expect("authorize")
    assert (asked.ref, asked.call_id) == (script.ref, "c1")
    assert (asked.capability, asked.target) == ("tool.call", "search")
    answer = pb.AuthorizeResult(ref=script.ref, call_id="c1", allowed=True)
    script.stream.say(authorize_result=answer)
    assert script.stream.expect("authorize").target == "shell"
    answer = pb.AuthorizeResult(ref=script.ref, call_id="c2", code="BUDGET_EXHAUSTED", message="no")
    script.stream.say(authorize_result=answer)
    assert script.result() == "BUDGET_EXHAUSTED"


def test_a_refusal_that_is_not_caught_ends_the_job_with_its_code(runtime: FakeRuntime) -> None:
    script = Script(runtime, lambda job: job.authorize("fs.read", "/etc/passwd"))
    script.stream.expect("authorize")
    answer = pb.AuthorizeResult(ref=script.ref, code="PERMISSION_DENIED", message="lease: no")
    script.stream.say(authorize_result=answer)
    [report] = script.stream.reports(1)
    assert report.complete.failure.code == "PERMISSION_DENIED"
    assert report.complete.failure.message == "lease: no"


def test_a_refused_tool_call_has_the_result_that_the_runtime_wrote(runtime: FakeRuntime) -> None:
    def agent(job: Job) -> None:
        with job.tool("read") as call:
            call.authorize("fs.read", "/w/a")
        with pytest.raises(Refused), job.tool("read") as call:
            call.authorize("fs.read", "/etc/passwd")
        with pytest.raises(Refused), job.tool("read"):
            # Not about this call, so it is this call's to tell.
            raise Refused("PERMISSION_DENIED", "by somebody else")

    script = Script(runtime, agent)
    reports: list[pb.Report] = []
    for allowed in (True, False):
        while True:
            request = script.stream.next()
            assert request is not None
            reports += request.reports.reports
            if request.HasField("authorize"):
                break
        asked = request.authorize
        assert asked.call_id == reports[-1].event.tool_call.call_id
        answer = pb.AuthorizeResult(ref=script.ref, call_id=asked.call_id, allowed=allowed)
        answer.code = "" if allowed else "PERMISSION_DENIED"
        script.stream.say(authorize_result=answer)
    reports += script.stream.reports(6)
    kinds = [report.event.WhichOneof("body") for report in reports[:5]]
    # The second call has no result of the agent's.
    assert kinds == ["tool_call", "tool_result", "tool_call", "tool_call", "tool_result"]
    assert reports[0].event.tool_call.call_id == reports[1].event.tool_result.call_id
    assert reports[5].complete.result_json == "null"
    assert script.result() is None


def test_what_no_message_may_hold_is_refused_here(runtime: FakeRuntime) -> None:
    def agent(job: Job) -> None:
        for asked in [("x" * 129, "a", ""), ("tool.call", "é" * 2049, ""), ("t", "a", "c" * 129)]:
            with pytest.raises(Refused, match="INVALID_REQUEST: .*longer than"):
                job.authorize(*asked)
        with pytest.raises(Refused, match="delegate_id: longer"):
            job.delegate("a", delegate_id="x" * 129)
        with pytest.raises(ValueError, match="expires_at: has no time zone"):
            job.delegate("a", expires_at=datetime(2030, 1, 1))
        with pytest.raises(ValueError, match="the limit is"):
            job.delegate("a", "x" * 1_000_000)

    assert Script(runtime, agent).result() is None


def test_a_child_is_made_and_its_end_awaited(runtime: FakeRuntime) -> None:
    looked = threading.Event()

    def agent(job: Job) -> object:
        child = job.delegate(
            "word-count", {"text": "a b"}, lease={"tool.call": ["search.*"]},
            expires_at=datetime(2030, 1, 1, tzinfo=timezone.utc), delegate_id="first",
        )
        assert (child.id, child.delegate_id, child.done) == ("j2", "first", False)
        looked.set()
        return child.result()

    script = Script(runtime, agent)
    asked = script.stream.expect("delegate")
    assert (asked.ref, asked.delegate_id, asked.agent) == (script.ref, "first", "word-count")
    assert asked.input_json == '{"text":"a b"}'
    assert asked.lease_request_json == '{"tool.call":["search.*"]}'
    assert asked.lease_expires_at.seconds == 1_893_456_000
    made = pb.DelegateResult(ref=script.ref, delegate_id="first", child_job_id="j2")
    script.stream.say(delegate_result=made)
    assert looked.wait(TIMEOUT)
    result = envelope.JobResult(result_json='{"words":2}')
    ended = pb.ChildEnded(ref=script.ref, delegate_id="first", child_job_id="j2", result=result)
    script.stream.say(child_ended=ended)
    assert script.result() == {"words": 2}


def test_a_childs_error_is_raised_and_a_refusal_too(runtime: FakeRuntime) -> None:
    def agent(job: Job) -> object:
        with pytest.raises(Refused) as refused:
            job.delegate("a", delegate_id="one")
        with pytest.raises(Failed) as failed:
            job.delegate("a", delegate_id="two").result()
        return refused.value.code, failed.value.code, failed.value.retryable, failed.value.details

    script = Script(runtime, agent)
    script.stream.expect("delegate")
    code = "LEASE_SUBSET_VIOLATION"
    refused = pb.DelegateResult(ref=script.ref, delegate_id="one", code=code, message="m")
    script.stream.say(delegate_result=refused)
    assert script.stream.expect("delegate").delegate_id == "two"
    made = pb.DelegateResult(ref=script.ref, delegate_id="two", child_job_id="j2")
    script.stream.say(delegate_result=made)
    error = envelope.JobError(code="TIMEOUT", message="m", retryable=True, details_json='{"n":1}')
    ended = pb.ChildEnded(ref=script.ref, delegate_id="two", child_job_id="j2", error=error)
    script.stream.say(child_ended=ended)
    assert script.result() == (code, "TIMEOUT", True, {"n": 1})


def delegated(script: Script, name: str) -> None:
    assert script.stream.expect("delegate").delegate_id == name
    made = pb.DelegateResult(ref=script.ref, delegate_id=name, child_job_id="j2")
    script.stream.say(delegate_result=made)


def ended(script: Script, name: str) -> None:
    result = envelope.JobResult(result_json="7")
    told = pb.ChildEnded(ref=script.ref, delegate_id=name, child_job_id="j2", result=result)
    script.stream.say(child_ended=told)


def test_a_name_that_is_delegated_twice_waited_for_the_end_of_the_first(
    runtime: FakeRuntime,
) -> None:
    both = threading.Event()

    def agent(job: Job) -> object:
        children = [job.delegate("a", delegate_id="d") for _ in range(2)]
        assert not any(child.done for child in children)
        both.set()
        return [(child.id, child.result()) for child in children]

    script = Script(runtime, agent)
    delegated(script, "d")
    delegated(script, "d")
    assert both.wait(TIMEOUT)
    # The runtime tells the end of a child once.
    ended(script, "d")
    assert script.result() == [("j2", 7), ("j2", 7)]


def test_a_name_that_is_delegated_six_times_at_once_left_five_without_an_answer(
    runtime: FakeRuntime,
) -> None:
    def agent(job: Job) -> object:
        def ask(_: int) -> Any:
            return job.delegate("a", delegate_id="d").result()

        with ThreadPoolExecutor(6) as pool:
            return list(pool.map(ask, range(6)))

    script = Script(runtime, agent)
    for _ in range(5):
        delegated(script, "d")
    # The end may come before the last answer does.
    assert script.stream.expect("delegate").delegate_id == "d"
    ended(script, "d")
    made = pb.DelegateResult(ref=script.ref, delegate_id="d", child_job_id="j2")
    script.stream.say(delegate_result=made)
    assert script.result() == [7] * 6


def test_a_refusal_is_that_of_the_call_that_was_refused(runtime: FakeRuntime) -> None:
    def agent(job: Job) -> object:
        child = job.delegate("a", 1, delegate_id="d")
        with pytest.raises(Refused) as refused:
            job.delegate("a", 2, delegate_id="d")
        return refused.value.code, child.result()

    script = Script(runtime, agent)
    delegated(script, "d")
    script.stream.expect("delegate")
    code = "DUPLICATE_KEY"
    refused = pb.DelegateResult(ref=script.ref, delegate_id="d", code=code, message="m")
    ended(script, "d")
    script.stream.say(delegate_result=refused)
    assert script.result() == (code, 7)


def test_questions_without_an_answer_are_asked_again_after_a_reconnect(
    runtime: FakeRuntime,
) -> None:
    made_it = threading.Event()

    def agent(job: Job) -> object:
        child = job.delegate("a", 1, delegate_id="mine")
        made_it.set()
        job.log("x")
        job.authorize("tool.call", "t", "c")
        return child.result()

    script = Script(runtime, agent)
    first = script.stream
    asked = first.expect("delegate")
    made = pb.DelegateResult(ref=script.ref, delegate_id="mine", child_job_id="j2")
    first.say(delegate_result=made)
    assert made_it.wait(TIMEOUT)
    first.reports(1)
    authorize = first.expect("authorize")
    first.end()
    second = runtime.stream()
    second.register(keep=[pb.KeptAssignment(ref=script.ref)])
    # The child is not over yet: to hear of its end, it is named once more.
    assert second.expect("delegate") == asked
    second.reports(1)
    assert second.expect("authorize") == authorize
    second.say(delegate_result=made)
    answer = pb.AuthorizeResult(ref=script.ref, call_id="c", allowed=True)
    second.say(authorize_result=answer)
    result = envelope.JobResult(result_json="7")
    ended = pb.ChildEnded(ref=script.ref, delegate_id="mine", child_job_id="j2", result=result)
    second.say(child_ended=ended)
    assert script.result() == 7
    second.reports(2)
    second.end()
    # What was answered is not asked again.
    third = runtime.stream()
    third.register(keep=[pb.KeptAssignment(ref=script.ref, acked_seq=2)])
    assert third.quiet()


@pytest.mark.parametrize("asked", ["authorize", "delegate", "result"])
def test_who_waits_for_an_answer_is_woken_by_a_cancel(runtime: FakeRuntime, asked: str) -> None:
    def agent(job: Job) -> object:
        if asked == "authorize":
            job.authorize("tool.call", "t")
        return job.delegate("a", delegate_id="d").result()

    script = Script(runtime, agent)
    if asked == "authorize":
        script.stream.expect("authorize")
    else:
        script.stream.expect("delegate")
    if asked == "result":
        made = pb.DelegateResult(ref=script.ref, delegate_id="d", child_job_id="j2")
        script.stream.say(delegate_result=made)
    script.stream.say(cancel=pb.Cancel(ref=script.ref))
    assert isinstance(script.result(), Cancelled)
    assert script.stream.reports(1)[0].complete.HasField("cancelled")


def test_a_job_knows_its_lease_its_end_and_its_parent(runtime: FakeRuntime) -> None:
    def agent(job: Job) -> object:
        return job.lease, job.lease_expires_at, job.parent_id

    lease = '{"tool.call":["search.*"],"cost.budget":["USD:1"]}'
    assign = pb.Assign(lease_json=lease, parent_job_id="j0")
    assign.lease_expires_at.FromSeconds(1_893_456_000)
    script = Script(
        runtime, agent, lease_json=lease, parent_job_id="j0",
        lease_expires_at=assign.lease_expires_at,
    )
    expires_at = datetime(2030, 1, 1, tzinfo=timezone.utc)
    granted = {"tool.call": ["search.*"], "cost.budget": ["USD:1"]}
    assert script.result() == (granted, expires_at, "j0")


def test_a_job_without_a_lease_has_an_empty_one(runtime: FakeRuntime) -> None:
    script = Script(runtime, lambda job: [job.lease, job.lease_expires_at, job.parent_id])
    assert script.result() == [{}, None, None]


def test_a_credential_that_is_replaced_is_what_the_job_reads_next(runtime: FakeRuntime) -> None:
    def agent(job: Job) -> object:
        [first] = job.credentials
        job.authorize("model.use", "m")
        [second] = job.credentials
        assert "sk-" not in repr((first, second))
        return [first.value, second.value, second.constraints["cost.budget"]]

    def shown(value: str) -> str:
        return json.dumps([{
            "id": "cred_1", "scheme": "bearer", "value": value, "endpoint": "https://llm",
            "constraints": {"cost.budget": ["USD:5"]},
        }])

    script = Script(runtime, agent, credentials_json=shown("sk-1"))
    script.stream.expect("authorize")
    credentials = pb.Credentials(ref=script.ref, credentials_json=shown("sk-2"))
    script.stream.say(credentials=credentials)
    script.stream.say(authorize_result=pb.AuthorizeResult(ref=script.ref, allowed=True))
    assert script.result() == ["sk-1", "sk-2", ["USD:5"]]


def test_a_job_without_credentials_has_none(runtime: FakeRuntime) -> None:
    assert Script(runtime, lambda job: len(job.credentials)).result() == 0
