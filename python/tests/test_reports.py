"""Numbered, kept until acked, sent again, held back."""

from __future__ import annotations

import threading

import pytest
from arcpd_agent import Agent, Fenced, Job
from arcpd_agent.assignment import BATCH_BYTES, BATCH_REPORTS, Assignment, Limits
from arcpd_agent.v1 import agent_host_service_pb2 as pb
from arcpd_agent.v1 import event_pb2 as event
from fake import TIMEOUT, FakeRuntime, Running


def seqs(reports: list[pb.Report]) -> list[int]:
    return [report.seq for report in reports]


def report(text: str = "x") -> pb.Report:
    return pb.Report(event=event.JobEvent(log=event.Log(level="info", message=text)))


def assignment(limits: Limits | None = None) -> Assignment:
    assign = pb.Assign(ref=pb.AssignmentRef(job_id="j", lease_token="t"))
    return Assignment(assign, limits or Limits(), lambda _: None)


def test_a_job_from_assign_to_complete(runtime: FakeRuntime) -> None:
    def count(job: Job) -> object:
        with job.tool("split", {"by": " "}) as call:
            call.result = job.input["text"].split()
        job.progress(1, total=2, units="steps")
        job.event("x-vendor.acme.note", {"big": 2**60})
        job.metric("words", 2, unit="1", lang="en")
        job.write("to ")
        job.write("be")
        return "two words"

    running = Running(runtime, Agent("a", "1", count, loss_policy="retry", max_in_flight=3))
    stream = runtime.stream()
    assert stream.metadata["authorization"] == "Bearer secret"
    register = stream.register()
    agent = register.agents[0]
    assert (agent.name, agent.version, agent.max_in_flight) == ("a", "1", 3)
    assert agent.loss_policy == pb.LOSS_POLICY_RETRY
    ref = stream.assign(input_json='{"text": "to be"}')
    reports = stream.reports(8)
    assert seqs(reports) == [1, 2, 3, 4, 5, 6, 7, 8]
    call, result = reports[0].event.tool_call, reports[1].event.tool_result
    assert call.tool == "split" and call.call_id == result.call_id
    assert (call.args_json, result.result_json) == ('{"by":" "}', '["to","be"]')
    assert reports[2].event.progress.total == 2
    assert reports[3].event.other.body_json == '{"big":%d}' % 2**60
    assert reports[4].event.metric.dimensions["lang"] == "en"
    assert [r.result_part.text for r in reports[5:7]] == ["to ", "be"]
    assert reports[7].complete.parts.summary == "two words"
    running.host.stop()
    assert 19 < stream.expect("draining").deadline.ToMilliseconds() / 1000 <= 20
    stream.say(ack=pb.Ack(ref=ref, seq=8))
    assert stream.ends()
    stream.end()
    running.result()


def test_what_is_not_acked_is_sent_again_after_a_reconnect(runtime: FakeRuntime) -> None:
    go_on = threading.Event()

    def agent(job: Job) -> object:
        for n in range(1, 6):
            job.log(str(n))
        assert go_on.wait(TIMEOUT)
        job.log("6")
        return {"n": 6}

    running = Running(runtime, Agent("a", "1", agent))
    first = runtime.stream()
    instance = first.register().host_instance_id
    ref = first.assign()
    assert seqs(first.reports(5)) == [1, 2, 3, 4, 5]
    first.say(ack=pb.Ack(ref=ref, seq=2))
    first.end()
    second = runtime.stream()
    register = second.expect("register")
    assert register.host_instance_id == instance
    assert [held.ref for held in register.resume] == [ref]
    # Made while nothing may be sent yet.
    go_on.set()
    kept = pb.KeptAssignment(ref=ref, acked_seq=3)
    registered = pb.Registered(keep=[kept])
    registered.heartbeat_interval.FromMilliseconds(50)
    registered.lost_after.FromSeconds(30)
    second.say(registered=registered)
    again = second.reports(7)
    assert seqs(again) == [4, 5, 6, 7]
    assert again[-1].complete.result_json == '{"n":6}'
    # The end is kept too, until it is acked.
    second.end()
    third = runtime.stream()
    third.register(keep=[pb.KeptAssignment(ref=ref, acked_seq=6)])
    assert seqs(third.reports(7)) == [7]
    third.say(ack=pb.Ack(ref=ref, seq=7))
    third.end()
    fourth = runtime.stream()
    assert not fourth.register().resume
    running.host.give_up()
    fourth.end()
    running.result()


def test_an_agent_waits_while_too_much_is_not_acked(runtime: FakeRuntime) -> None:
    made: list[int] = []

    def agent(job: Job) -> None:
        for n in range(1, 7):
            job.log(str(n))
            made.append(n)

    running = Running(runtime, Agent("a", "1", agent))
    stream = runtime.stream()
    stream.register(unacked_reports_max=4)
    ref = stream.assign()
    assert seqs(stream.reports(4)) == [1, 2, 3, 4]
    assert stream.quiet() and made == [1, 2, 3, 4]
    stream.say(ack=pb.Ack(ref=ref, seq=1))
    assert seqs(stream.reports(5)) == [5]
    assert stream.quiet() and made == [1, 2, 3, 4, 5]
    stream.say(ack=pb.Ack(ref=ref, seq=5))
    reports = stream.reports(7)
    assert seqs(reports) == [6, 7] and reports[-1].HasField("complete")
    stream.say(ack=pb.Ack(ref=ref, seq=7))
    running.host.give_up()
    stream.end()
    running.result()


def test_bytes_hold_an_agent_back_and_one_large_report_passes() -> None:
    limits = Limits()
    limits.bytes_max = 1_000
    job = assignment(limits)
    job.add(report("x" * 5_000))
    waiting = threading.Thread(target=job.add, args=(report(),), daemon=True)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    job.ack(1)
    waiting.join(TIMEOUT)
    assert not waiting.is_alive() and seqs(job.batch()) == [2]


def test_a_batch_is_bounded_in_reports_and_in_bytes() -> None:
    job = assignment()
    for _ in range(BATCH_REPORTS + 1):
        job.add(report())
    assert (len(job.batch()), len(job.batch()), job.batch()) == (BATCH_REPORTS, 1, [])
    large = assignment()
    for _ in range(3):
        large.add(report("x" * (BATCH_BYTES // 2)))
    assert [len(large.batch()) for _ in range(3)] == [1, 1, 1]


def test_what_no_message_can_carry_is_refused_where_it_is_made() -> None:
    job = assignment()
    with pytest.raises(ValueError, match="the limit is 1000000"):
        job.add(report("x" * 1_000_000))
    job.add(report())
    assert seqs(job.batch()) == [1]


def test_a_fence_frees_an_agent_that_waits() -> None:
    limits = Limits()
    limits.reports_max = 1
    job = assignment(limits)
    job.add(report())
    threading.Timer(0.02, job.fence, ["gone"]).start()
    with pytest.raises(Fenced, match="gone"):
        job.add(report())
    assert job.is_over() and job.batch() == []
