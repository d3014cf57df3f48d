"""Dialling, dialling again, and giving up."""

from __future__ import annotations

import random
import threading
import time

import grpc
import pytest
from arcpd_agent import Agent, Job, Refused, agent
from arcpd_agent.agent import REGISTERED
from arcpd_agent.backoff import Backoff
from arcpd_agent.connection import Server
from arcpd_agent.v1 import agent_host_service_pb2 as pb
from fake import FakeRuntime, Running
from google.protobuf.duration_pb2 import Duration

NOP = Agent("a", "1", lambda job: None)


def duration(seconds: float) -> Duration:
    made = Duration()
    made.FromMilliseconds(int(seconds * 1000))
    return made


def test_jitter_is_over_the_whole_of_a_bound_that_doubles_up_to_a_cap() -> None:
    firsts = [Backoff(1.0, 10.0, random.Random(seed)).next() for seed in range(500)]
    assert min(firsts) < 0.05 and max(firsts) > 0.95
    longest = [0.0] * 8
    for seed in range(500):
        backoff = Backoff(1.0, 10.0, random.Random(seed))
        longest = [max(was, backoff.next()) for was in longest]
    for bound, seen in zip([1, 2, 4, 8, 10, 10, 10, 10], longest, strict=True):
        assert 0.95 * bound < seen <= bound
    backoff = Backoff(1.0, 10.0, random.Random(7))
    again = Backoff(1.0, 10.0, random.Random(7))
    assert [backoff.next() for _ in range(2000)] == [again.next() for _ in range(2000)]
    backoff.cap_at(0.5)
    assert max(backoff.next() for _ in range(100)) <= 0.5
    backoff.cap_at(10)
    backoff.reset()
    assert backoff.next() <= 0.5


@pytest.mark.parametrize("code", ["UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED", "INTERNAL"])
def test_a_stream_that_ends_is_dialled_again(runtime: FakeRuntime, code: str) -> None:
    Running(runtime, NOP)
    instances = set()
    for _ in range(3):
        stream = runtime.stream()
        instances.add(stream.register().host_instance_id)
        stream.end(grpc.StatusCode[code])
    assert len(instances) == 1


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"])
def test_a_refusal_ends_the_host_and_says_why(runtime: FakeRuntime, code: str) -> None:
    running = Running(runtime, NOP)
    stream = runtime.stream()
    stream.expect("register")
    stream.end(grpc.StatusCode[code], "because")
    with pytest.raises(Refused, match=f"{code}: because"):
        running.result()


def test_heartbeats_come_while_an_agent_keeps_the_processor(runtime: FakeRuntime) -> None:
    done = threading.Event()

    def busy(job: Job) -> None:
        while not done.is_set():
            sum(range(1000))

    Running(runtime, Agent("a", "1", busy))
    stream = runtime.stream()
    stream.register()
    stream.assign()
    nonces = [stream.expect("heartbeat").nonce for _ in range(5)]
    done.set()
    assert nonces == sorted(set(nonces))


def test_a_silent_stream_is_dialled_again(runtime: FakeRuntime) -> None:
    Running(runtime, NOP)
    silent = runtime.stream()
    started = time.monotonic()
    silent.register(lost_after=duration(0.1), heartbeat_interval=duration(0.02))
    runtime.stream().register()
    # Twice what it takes the runtime to lose a host; not at once.
    assert time.monotonic() - started >= 0.2
    assert not silent.context.is_active()


def test_a_stream_that_is_answered_is_not_silent(runtime: FakeRuntime) -> None:
    Running(runtime, NOP)
    stream = runtime.stream()
    # As short as leaves a busy machine time for a turn.
    stream.register(lost_after=duration(2), heartbeat_interval=duration(0.1))
    # Longer than the silence that would end it.
    for _ in range(30):
        stream.say(heartbeat_ack=pb.HeartbeatAck(nonce=stream.expect("heartbeat").nonce))
    assert runtime.streams.empty()


def test_a_register_that_is_not_answered_is_sent_again(runtime: FakeRuntime) -> None:
    Running(runtime, NOP, hello_timeout=0.5)
    runtime.stream().expect("register")
    runtime.stream().expect("register")


def test_a_drained_host_comes_back_after_the_delay(runtime: FakeRuntime) -> None:
    Running(runtime, NOP)
    stream = runtime.stream()
    stream.register()
    started = time.monotonic()
    stream.say(drain=pb.Drain(reconnect_after=duration(0.3)))
    stream.end()
    runtime.stream().register()
    assert time.monotonic() - started >= 0.3


def test_an_address_says_how_to_dial() -> None:
    for address in ("127.0.0.1:1", "http://127.0.0.1:1/", "https://127.0.0.1:1"):
        Server(address).channel().close()
    with pytest.raises(ValueError, match="begins with neither"):
        Server("ws://127.0.0.1:1").channel()
    assert Server("x", lambda: "asked").ask_token() == "asked"


def test_the_decorator_leaves_the_function_and_describes_it() -> None:
    @agent("described", version="2.0.0", loss_policy="checkpoint")
    def described(job: Job) -> int:
        """What it does."""
        return 1

    made = REGISTERED.pop()
    assert made.function is described and made.description == "What it does."
    assert made.hosted().loss_policy == pb.LOSS_POLICY_CHECKPOINT
    with pytest.raises(ValueError, match="loss_policy"):
        agent("x", version="1", loss_policy="sometimes")  # type: ignore[arg-type]
