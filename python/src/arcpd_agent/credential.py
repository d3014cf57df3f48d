"""Credentials that the runtime had made for one job."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Credential:
    """Prints without its value."""

    id: str
    scheme: str
    value: str = field(repr=False)
    endpoint: str
    profile: str | None
    # What the upstream holds its user to: `cost.budget`, `model.use`, `expires_at`.
    constraints: dict[str, Any]


class Wallet:
    """What a job has now. Another value may come at any time, and the one before it
    ends within seconds."""

    def __init__(self, credentials_json: str) -> None:
        self._lock = threading.Lock()
        self._all: tuple[Credential, ...] = ()
        self.set(credentials_json)

    def set(self, credentials_json: str) -> None:
        made = tuple(
            Credential(
                id=one["id"],
                scheme=one.get("scheme", "bearer"),
                value=one["value"],
                endpoint=one["endpoint"],
                profile=one.get("profile"),
                constraints=one.get("constraints", {}),
            )
            for one in json.loads(credentials_json or "[]")
        )
        with self._lock:
            self._all = made

    def all(self) -> tuple[Credential, ...]:
        with self._lock:
            return self._all
