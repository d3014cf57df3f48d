"""client.py AGENT FILE [STEP_MS]: submits a text, follows its job, prints the result."""

import json, os, sys

from arcp.v1.envelope_pb2 import JobSubmit
from session import follow

agent, file, *step_ms = sys.argv[1:]
with open(file, encoding="utf-8", newline="") as opened:
    job = json.dumps({"text": opened.read(), "step_ms": int(*step_ms)})
submit = JobSubmit(agent=agent, input_json=job)
server = os.environ.get("ARCPD_SERVER", "127.0.0.1:7777").removeprefix("http://")
result = ""
for kind, message in follow(server, os.environ.get("ARCPD_TOKEN", ""), submit):
    if kind == "job_event" and message.HasField("progress"):
        at = message.progress
        print(f"progress {at.current:.0f}/{at.total:.0f}", file=sys.stderr, flush=True)
    elif kind == "job_event":
        result += message.result_chunk.data
    elif kind == "job_result":
        print(result or message.result_json)
    elif kind in ("job_error", "session_error"):
        sys.exit(f"{message.code}: {message.message}")
