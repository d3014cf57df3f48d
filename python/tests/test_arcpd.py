"""The helper and a real runtime; the path of its program is in ARCPD_BIN."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ARCPD = os.environ.get("ARCPD_BIN", "")
TIMEOUT = 30
AGENTS = """
from arcpd_agent import Failed, Job, agent, run

@agent("count", version="1.0.0")
def count(job: Job) -> object:
    with job.tool("split") as call:
        call.result = job.input["text"].split()
    job.progress(1, total=1)
    return {"words": len(call.result)}

@agent("stream", version="1.0.0")
async def stream(job: Job) -> None:
    for n in range(10_000):
        job.log(str(n))
        job.write(f"{n}\\n")

@agent("refuse", version="1.0.0")
def refuse(job: Job) -> None:
    raise Failed("PERMISSION_DENIED", "not you")

run(name="test")
"""

pytestmark = pytest.mark.skipif(not ARCPD, reason="ARCPD_BIN is not set")


class Runtime:
    def __init__(self, folder: Path) -> None:
        arguments = ["serve", "--dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        # Of these variables it would refuse those it does not know.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ARCPD_")}
        self.process = subprocess.Popen(
            [ARCPD, *arguments, "--data-dir", str(folder)],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            fields = json.loads(line)["fields"]
            if fields["message"] == "ready":
                self.address = f"http://{fields['listen']}"
                return

    def environment(self) -> dict[str, str]:
        return {**os.environ, "ARCPD_SERVER": self.address, "ARCPD_TOKEN": ""}

    def submit(self, agent: str, given: object) -> subprocess.CompletedProcess[str]:
        command = [ARCPD, "submit", agent, "-i", json.dumps(given)]
        return subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=TIMEOUT
        )


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path_factory.mktemp("store"))
    yield runtime
    runtime.process.kill()
    runtime.process.wait()
    assert runtime.process.stderr is not None
    runtime.process.stderr.close()


@pytest.fixture(scope="module")
def host(real: Runtime) -> Iterator[subprocess.Popen[str]]:
    host = subprocess.Popen(
        [sys.executable, "-c", AGENTS], env=real.environment(), stderr=subprocess.PIPE, text=True
    )
    assert host.stderr is not None
    assert "registered with arcpd" in host.stderr.readline()
    yield host
    host.kill()
    host.wait()
    host.stderr.close()


def test_a_job(real: Runtime, host: subprocess.Popen[str]) -> None:
    done = real.submit("count", {"text": "to be or not"})
    assert (done.returncode, json.loads(done.stdout)) == (0, {"words": 4}), done.stderr


def test_a_streamed_result(real: Runtime, host: subprocess.Popen[str]) -> None:
    done = real.submit("stream", None)
    assert done.stdout.split() == [str(n) for n in range(10_000)], done.stderr


def test_a_failure(real: Runtime, host: subprocess.Popen[str]) -> None:
    done = real.submit("refuse", None)
    assert done.returncode == 1 and "PERMISSION_DENIED" in done.stderr
    assert "not you" in done.stderr


def test_a_refused_host_ends_and_says_why(real: Runtime) -> None:
    code = AGENTS.replace('"count"', '"NOT a name"')
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=real.environment(), capture_output=True, text=True, timeout=TIMEOUT,
    )
    assert done.returncode == 1
    assert "refused this host: INVALID_ARGUMENT: register.agents" in done.stderr


def test_sigterm_ends_a_host(real: Runtime, host: subprocess.Popen[str]) -> None:
    host.send_signal(signal.SIGTERM)
    assert host.wait(timeout=TIMEOUT) == 0
