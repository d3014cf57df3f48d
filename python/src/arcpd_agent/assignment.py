"""One job of this host: its numbered reports until they are durable.

    acked │ sent, not acked │ not sent yet
          └─ kept here; all but the acked go out again after a reconnect ─┘
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from itertools import islice

from .credential import Wallet
from .errors import Cancelled, Fenced
from .question import Question
from .v1 import agent_host_service_pb2 as pb

BATCH_REPORTS = 64
BATCH_BYTES = 256 * 1024
# Of a message, beside its one report.
OVERHEAD_BYTES = 1024


class Limits:
    """What the runtime said of this connection; the documented figures before that."""

    def __init__(self) -> None:
        self.reports_max = 4096
        self.bytes_max = 4 * 1024 * 1024
        self.message_bytes_max = 1_000_000

    def set(self, registered: pb.Registered) -> None:
        self.reports_max = registered.unacked_reports_max or self.reports_max
        self.bytes_max = registered.unacked_bytes_max or self.bytes_max
        self.message_bytes_max = registered.message_bytes_max or self.message_bytes_max


class Assignment:
    def __init__(
        self, assign: pb.Assign, limits: Limits, on_ready: Callable[[Assignment], None]
    ) -> None:
        self.assign = assign
        self.ref = assign.ref
        self.key = (assign.ref.job_id, assign.ref.lease_token)
        self.wallet = Wallet(assign.credentials_json)
        # Set by a cancel and by a fence.
        self.stopped = threading.Event()
        self.on_stop: Callable[[], None] = lambda: None
        self._limits = limits
        self._on_ready = on_ready
        self._room = threading.Condition()
        self._kept: deque[pb.Report] = deque()
        self._kept_bytes = 0
        self._questions: list[Question] = []
        self._last_seq = 0
        # How many of the kept are on their way.
        self._sent = 0
        self._attached = True
        self._fenced: str | None = None
        self._completed = False

    def add(self, report: pb.Report) -> None:
        """Numbers a report and puts it in line; waits while too much is not acked.

        Raises `Cancelled` or `Fenced` where the job is to stop. A completion is
        taken after a cancel too.
        """
        size = report.ByteSize()
        final = report.HasField("complete")
        if size > self._limits.message_bytes_max - OVERHEAD_BYTES:
            raise ValueError(
                f"a report of {size} bytes: the limit is {self._limits.message_bytes_max}"
            )
        with self._room:
            self._room.wait_for(lambda: self._must_stop(final) or self._has_room(size))
            if self._fenced is not None:
                raise Fenced(self._fenced)
            if self._must_stop(final):
                raise Cancelled("the job was cancelled")
            if self._completed:
                raise RuntimeError("the job has ended; nothing can be reported any more")
            self._completed = final
            self._last_seq += 1
            report.seq = self._last_seq
            self._kept.append(report)
            self._kept_bytes += size
        self._on_ready(self)

    def ask(self, question: Question) -> None:
        """Puts a question in line, behind what was reported before it."""
        size = question.request.ByteSize()
        if size > self._limits.message_bytes_max:
            raise ValueError(
                f"a request of {size} bytes: the limit is {self._limits.message_bytes_max}"
            )
        with self._room:
            if self._fenced is not None:
                raise Fenced(self._fenced)
            if self.stopped.is_set():
                raise Cancelled("the job was cancelled")
            question.after_seq = self._last_seq
            self._questions.append(question)
        self._on_ready(self)

    def answer(self, answer: pb.AuthorizeResult | pb.DelegateResult | pb.ChildEnded) -> None:
        """To the first question that it fits: they are answered in order. The end of
        a child is for all that asked for it."""
        with self._room:
            for question in self._questions:
                if question.sent and question.take(answer):
                    break
            self._questions = [question for question in self._questions if question.is_open]
        # Another may have waited for this one.
        self._on_ready(self)

    def next_request(self) -> pb.ServeRequest | None:
        """What is to be sent next."""
        with self._room:
            if not self._attached or self._fenced is not None:
                return None
            sent_seq = self._last_seq - len(self._kept) + self._sent
            for question in self._questions:
                if question.after_seq <= sent_seq and question.may_go(self._questions):
                    question.sent = question.waits = True
                    return question.request
            if reports := self.batch():
                return pb.ServeRequest(reports=pb.Reports(ref=self.ref, reports=reports))
            return None

    def _must_stop(self, final: bool) -> bool:
        return self._fenced is not None or (self.stopped.is_set() and not final)

    def _has_room(self, size: int) -> bool:
        # One report larger than the bound must still get through.
        return not self._kept or (
            len(self._kept) < self._limits.reports_max
            and self._kept_bytes + size <= self._limits.bytes_max
        )

    def batch(self) -> list[pb.Report]:
        """What is to be sent next, as far as one message carries it."""
        with self._room:
            if not self._attached or self._fenced is not None:
                return []
            batch: list[pb.Report] = []
            size = 0
            for report in islice(self._kept, self._sent, self._sent + BATCH_REPORTS):
                size += report.ByteSize()
                if batch and size > BATCH_BYTES:
                    break
                batch.append(report)
            self._sent += len(batch)
            return batch

    def ack(self, seq: int) -> None:
        with self._room:
            self._forget(seq)

    def _forget(self, seq: int) -> None:
        while self._kept and self._kept[0].seq <= seq:
            self._kept_bytes -= self._kept.popleft().ByteSize()
            self._sent = max(0, self._sent - 1)
        self._room.notify_all()

    def is_over(self) -> bool:
        """The completion is durable, or nobody wants it."""
        with self._room:
            return self._fenced is not None or (self._completed and not self._kept)

    def detach(self) -> None:
        """The stream is broken: nothing is sent until the runtime has said where
        to go on."""
        with self._room:
            self._attached = False

    def reattach(self, acked_seq: int) -> None:
        with self._room:
            self._forget(acked_seq)
            self._sent = 0
            for question in self._questions:
                question.sent = question.waits = False
            self._attached = True

    def cancel(self) -> None:
        self._stop(None)

    def fence(self, reason: str) -> None:
        self._stop(reason)

    def _stop(self, fenced: str | None) -> None:
        with self._room:
            if fenced is not None and self._fenced is None:
                self._fenced = fenced
                self._kept.clear()
                self._kept_bytes = 0
            first = not self.stopped.is_set()
            self.stopped.set()
            error = Cancelled("the job was cancelled") if fenced is None else Fenced(fenced)
            for question in self._questions:
                question.stop(error)
            self._questions.clear()
            self._room.notify_all()
        if first:
            self.on_stop()
