"""What an agent raises, and what is raised in it."""

from __future__ import annotations

from typing import Any


class Failed(Exception):
    """Ends the job with this error. `code` is one of the fifteen of ARCP §12."""

    def __init__(
        self,
        code: str,
        message: str,
        retryable: bool = False,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable
        self.details = details


class Stopped(BaseException):
    """Raised by the next report of a job that is to stop.

    Not an `Exception`, as `asyncio.CancelledError` is none: `except Exception`
    in an agent must not keep a stopped job going.
    """


class Cancelled(Stopped):
    """The client cancelled the job. Clean up and let it pass."""


class Fenced(Stopped):
    """The job is no longer this host's; nothing it does is applied any more."""


class Refused(Exception):
    """The runtime says no: to an operation or a child, with a code of ARCP §12, or to
    this host, with a code of gRPC; dialling again would not help.

    An agent that does not catch it ends its job with it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
