"""`@agent`: a function, and what the runtime is told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from .job import Job
from .v1 import agent_host_service_pb2 as pb

LossPolicy = Literal["fail", "retry", "checkpoint"]
Function = Callable[[Job], Any] | Callable[[Job], Awaitable[Any]]
F = TypeVar("F", bound=Function)

_POLICIES = {
    "fail": pb.LOSS_POLICY_FAIL,
    "retry": pb.LOSS_POLICY_RETRY,
    "checkpoint": pb.LOSS_POLICY_CHECKPOINT,
}


@dataclass(frozen=True)
class Agent:
    name: str
    version: str
    function: Function
    loss_policy: LossPolicy = "fail"
    max_in_flight: int = 0
    description: str = ""

    def hosted(self) -> pb.HostedAgent:
        return pb.HostedAgent(
            name=self.name,
            version=self.version,
            max_in_flight=self.max_in_flight,
            loss_policy=_POLICIES[self.loss_policy],
            description=self.description,
        )


# Those of the program, for `run()`.
REGISTERED: list[Agent] = []


def agent(
    name: str,
    *,
    version: str,
    loss_policy: LossPolicy = "fail",
    max_in_flight: int = 0,
    description: str | None = None,
) -> Callable[[F], F]:
    """Makes a function an agent. It may be `async`; it is called with a `Job`.

    What it returns is the job's result and must be possible as JSON. Each job runs
    in a thread of its own. `loss_policy` says what becomes of a job when its host
    is lost: "fail" ends it, "retry" runs it again from the start, "checkpoint"
    from the last `job.save_checkpoint()`. `max_in_flight` 0 is no bound but the
    host's.
    """
    if loss_policy not in _POLICIES:
        raise ValueError(f"loss_policy: {loss_policy!r} is none of {', '.join(_POLICIES)}")

    def register(function: F) -> F:
        text = (function.__doc__ or "").strip() if description is None else description
        REGISTERED.append(Agent(name, version, function, loss_policy, max_in_flight, text))
        return function

    return register
