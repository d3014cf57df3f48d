"""How long to wait before the next dial."""

from __future__ import annotations

import random


class Backoff:
    """Full jitter: anywhere between nothing and a bound that doubles up to a cap.

    Hosts that lost one runtime at one moment come back spread over the whole wait.
    """

    def __init__(
        self, first: float = 0.25, cap: float = 10.0, rng: random.Random | None = None
    ) -> None:
        self._first = first
        self._cap = cap
        self._rng = rng or random.Random()
        self._failures = 0

    def cap_at(self, seconds: float) -> None:
        """A host that waits for as long as it takes to be lost would be lost."""
        self._cap = min(self._cap, seconds)

    def next(self) -> float:
        # The exponent is bounded: 2.0 ** 1024 is an OverflowError.
        bound = min(self._cap, self._first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._rng.uniform(0, bound)

    def reset(self) -> None:
        self._failures = 0
