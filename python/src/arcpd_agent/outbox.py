"""What one stream has still to send."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from .assignment import Assignment
from .v1 import agent_host_service_pb2 as pb


class Outbox:
    """Requests in order, then reports and questions of the assignments in turn."""

    def __init__(self, first: pb.ServeRequest) -> None:
        self._more = threading.Condition()
        self._requests = deque([first])
        self._ready: dict[tuple[str, str], Assignment] = {}
        self._finishing = False
        self._closed = False

    def put(self, request: pb.ServeRequest) -> None:
        with self._more:
            self._requests.append(request)
            self._more.notify()

    def ready(self, assignment: Assignment) -> None:
        with self._more:
            self._ready.setdefault(assignment.key, assignment)
            self._more.notify()

    def finish(self) -> None:
        """Ends the stream from this side when all is sent."""
        with self._more:
            self._finishing = True
            self._more.notify()

    def close(self) -> None:
        """Nothing more is taken from any assignment after this."""
        with self._more:
            self._closed = True
            self._more.notify()

    def __iter__(self) -> Iterator[pb.ServeRequest]:
        while (request := self._next()) is not None:
            yield request

    def _next(self) -> pb.ServeRequest | None:
        with self._more:
            while not self._closed:
                if self._requests:
                    return self._requests.popleft()
                if (request := self._of_assignments()) is not None:
                    return request
                if self._finishing:
                    return None
                self._more.wait()
            return None

    def _of_assignments(self) -> pb.ServeRequest | None:
        while self._ready:
            key = next(iter(self._ready))
            assignment = self._ready.pop(key)
            if (request := assignment.next_request()) is not None:
                # To the end of the line: one busy job must not hold up the others.
                self._ready[key] = assignment
                return request
        return None
