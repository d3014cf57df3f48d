"""What an agent asks the runtime, and waits for: leave to act, and children."""

from __future__ import annotations

import json
from concurrent.futures import Future
from typing import Any

from .errors import Failed, Refused
from .v1 import agent_host_service_pb2 as pb


class Question:
    """One request. It is said again after a reconnect until `is_open` is false."""

    def __init__(self, request: pb.ServeRequest) -> None:
        self.request = request
        # Goes out after the report with this number: what was reported is counted first.
        self.after_seq = 0
        self.sent = False
        # For what the runtime says to it on this stream.
        self.waits = False
        self.answered: Future[None] = Future()

    @property
    def is_open(self) -> bool:
        return not self.answered.done()

    def take(self, answer: pb.AuthorizeResult | pb.DelegateResult | pb.ChildEnded) -> bool:
        """Whether the answer is this question's and no other's."""
        asked = self.request.authorize
        if not isinstance(answer, pb.AuthorizeResult) or answer.call_id != asked.call_id:
            return False
        settle(self.answered, None if answer.allowed else Refused(answer.code, answer.message))
        return True

    def may_go(self, others: list[Question]) -> bool:
        """Whether the answer will be told from those to the others."""
        return not self.sent

    def stop(self, error: BaseException) -> None:
        settle(self.answered, error)


class Delegation(Question):
    """Open until the child is over: the runtime tells its end to who asks again."""

    def __init__(self, request: pb.ServeRequest) -> None:
        super().__init__(request)
        self.job_id = ""
        # An end that came before the answer.
        self._early: pb.ChildEnded | None = None
        self.ended: Future[pb.ChildEnded] = Future()

    @property
    def is_open(self) -> bool:
        return not self.ended.done()

    def take(self, answer: pb.AuthorizeResult | pb.DelegateResult | pb.ChildEnded) -> bool:
        asked = self.request.delegate
        if isinstance(answer, pb.AuthorizeResult) or answer.delegate_id != asked.delegate_id:
            return False
        if isinstance(answer, pb.ChildEnded):
            # Told once, to all that have this child.
            if self.waits:
                self._early = answer
            elif answer.child_job_id == self.job_id:
                self._end(answer)
            return False
        if not self.waits:
            return False
        self.waits = False
        if answer.code:
            self.stop(Refused(answer.code, answer.message))
            return True
        self.job_id = answer.child_job_id
        settle(self.answered, None)
        if self._early is not None and self._early.child_job_id == self.job_id:
            self._end(self._early)
        return True

    def may_go(self, others: list[Question]) -> bool:
        """One at a time under a name: it is all that the answer says of whose it is."""
        name = self.request.delegate.delegate_id
        return not self.sent and not any(
            other.waits and other.request.delegate.delegate_id == name
            for other in others
            if isinstance(other, Delegation)
        )

    def _end(self, ended: pb.ChildEnded) -> None:
        if not self.ended.done():
            self.ended.set_result(ended)

    def stop(self, error: BaseException) -> None:
        super().stop(error)
        settle(self.ended, error)


class Child:
    """A job that this job has made. It ends with this job at the latest."""

    def __init__(self, delegation: Delegation) -> None:
        self._delegation = delegation
        self.id: str = delegation.job_id
        self.delegate_id: str = delegation.request.delegate.delegate_id

    @property
    def done(self) -> bool:
        return self._delegation.ended.done()

    def result(self, timeout: float | None = None) -> Any:
        """Waits for the end; raises `Failed` with the child's error, or the
        `TimeoutError` of `concurrent.futures`. Of a streamed result it is the id, the
        size and the summary, under the names of the protocol."""
        ended = self._delegation.ended.result(timeout)
        outcome = ended.WhichOneof("outcome")
        if outcome == "error":
            error = ended.error
            details = json.loads(error.details_json) if error.details_json else None
            raise Failed(error.code, error.message, error.retryable, details)
        if outcome is None:
            raise Failed("INTERNAL_ERROR", f"how job {self.id} ended is no longer kept")
        if ended.result.result_id:
            result = ended.result
            return {
                "result_id": result.result_id,
                "result_size": result.result_size,
                "summary": result.summary,
            }
        return json.loads(ended.result.result_json or "null")


def settle(future: Future[Any], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
