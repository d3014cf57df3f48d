"""Tokens that change while a host runs."""

from __future__ import annotations

import threading

import grpc
import pytest
from arcpd_agent import Agent, Job, Refused
from arcpd_agent.v1 import agent_host_service_pb2 as pb
from fake import FakeRuntime, Running

NOP = Agent("a", "1", lambda job: None)
OFTEN = 0.02


class Tokens:
    """Says the one it holds, or raises when it holds none."""

    def __init__(self, token: str) -> None:
        self.token: str | None = token

    def __call__(self) -> str:
        if self.token is None:
            raise OSError("the issuer does not answer")
        return self.token


def test_each_dial_asks_for_the_token(runtime: FakeRuntime) -> None:
    tokens = Tokens("one")
    Running(runtime, NOP, token=tokens)
    first = runtime.stream()
    first.register()
    assert first.metadata["authorization"] == "Bearer one"
    tokens.token = "two"
    first.end()
    second = runtime.stream()
    second.register()
    assert second.metadata["authorization"] == "Bearer two"


def test_a_new_token_is_told_in_the_stream_and_the_job_goes_on(runtime: FakeRuntime) -> None:
    tokens, more = Tokens("one"), threading.Event()

    def wait(job: Job) -> int:
        assert more.wait(10)
        return 1

    Running(runtime, Agent("a", "1", wait), token=tokens, token_refresh_sec=OFTEN)
    stream = runtime.stream()
    stream.register()
    stream.assign()
    assert stream.quiet(), "the runtime has this token"
    tokens.token = "two"
    assert stream.expect("refresh_auth").bearer_token == "two"
    # Once, until it is answered and after.
    assert stream.quiet()
    stream.say(auth_refreshed=pb.AuthRefreshed())
    assert stream.quiet()
    more.set()
    assert stream.reports(until=1)[0].complete.result_json == "1"


def test_a_new_token_that_is_rejected_is_offered_again(runtime: FakeRuntime) -> None:
    tokens = Tokens("one")
    Running(runtime, NOP, token=tokens, token_refresh_sec=OFTEN)
    stream = runtime.stream()
    stream.register()
    tokens.token = "early"
    stream.expect("refresh_auth")
    stream.say(rejected=pb.Rejected(message="refresh_auth.bearer_token: is not a valid token"))
    assert stream.expect("refresh_auth").bearer_token == "early"


def test_it_is_told_at_once_when_asked_to(runtime: FakeRuntime) -> None:
    tokens = Tokens("one")
    running = Running(runtime, NOP, token=tokens)
    stream = runtime.stream()
    stream.register()
    # Registered on both sides.
    stream.assign()
    stream.reports(until=1)
    tokens.token = "two"
    running.host.refresh_auth()
    assert stream.expect("refresh_auth").bearer_token == "two"


def test_a_token_that_ran_out_is_a_refusal_only_while_there_is_no_other(
    runtime: FakeRuntime,
) -> None:
    tokens = Tokens("one")
    running = Running(runtime, NOP, token=tokens)
    first = runtime.stream()
    first.register()
    tokens.token = "two"
    first.end(grpc.StatusCode.UNAUTHENTICATED, "expired")
    second = runtime.stream()
    second.expect("register")
    second.end(grpc.StatusCode.UNAUTHENTICATED, "unknown")
    with pytest.raises(Refused, match="unknown"):
        running.result()


def test_an_issuer_that_does_not_answer_is_asked_again(runtime: FakeRuntime) -> None:
    tokens = Tokens("one")
    Running(runtime, NOP, token=tokens, token_refresh_sec=OFTEN)
    stream = runtime.stream()
    stream.register()
    tokens.token = None
    assert stream.quiet(), "the stream goes on with the token it has"
    stream.end()
    tokens.token = "two"
    again = runtime.stream()
    again.register()
    assert again.metadata["authorization"] == "Bearer two"
