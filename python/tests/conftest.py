from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake import FakeRuntime


@pytest.fixture
def runtime() -> Iterator[FakeRuntime]:
    runtime = FakeRuntime()
    yield runtime
    runtime.stop()
