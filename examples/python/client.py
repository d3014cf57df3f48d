"""client.py AGENT FILE [STEP_MS]: submits a text, follows the job through broken connections, prints its result."""

import json, os, queue, sys, time, uuid

import grpc
from arcp.v1.envelope_pb2 import Envelope, JobSubmit, Resume, SessionHello
from arcp.v1.runtime_service_pb2 import SessionRequest
from arcp.v1.runtime_service_pb2_grpc import RuntimeServiceStub

SERVER = os.environ.get("ARCPD_SERVER", "http://127.0.0.1:7777").removeprefix("http://")
agent, file, *step_ms = sys.argv[1:]
with open(file, encoding="utf-8", newline="") as opened:
    input_json = json.dumps({"text": opened.read(), "step_ms": int(step_ms[0]) if step_ms else 0})
# The same key each time: however often it is sent, it is one job.
submit = JobSubmit(agent=agent, input_json=input_json, idempotency_key=str(uuid.uuid4()))
resume, parts = None, []


def follow(send, stream):
    """One connection, to the end of the job or of the connection."""
    global resume
    hello = SessionHello(client_name="example", client_version="1", auth_scheme="bearer",
                         auth_token=os.environ.get("ARCPD_TOKEN", ""),
                         features=["progress", "result_chunk"], resume=resume)
    send(Envelope(arcp="1.1", id=str(uuid.uuid4()), session_hello=hello))
    for envelope in (envelope for response in stream for envelope in response.envelopes):
        kind = envelope.WhichOneof("payload")
        message = getattr(envelope, kind)
        if kind == "session_welcome":
            session_id, token = envelope.session_id, message.resume_token
            if resume:
                resume.resume_token = token
            else:
                send(Envelope(arcp="1.1", id=str(uuid.uuid4()), session_id=session_id, job_submit=submit))
        elif kind == "job_accepted":
            resume = Resume(session_id=session_id, resume_token=token)
        elif kind == "job_event" and message.HasField("progress"):
            at = message.progress
            print(f"progress {at.current:.0f}/{at.total:.0f}", file=sys.stderr, flush=True)
        elif kind == "job_event" and message.HasField("result_chunk"):
            parts.append(message.result_chunk.data)
        elif kind == "job_result":
            print("".join(parts) or message.result_json)
            sys.exit()
        elif kind in ("job_error", "session_error"):
            sys.exit(f"{message.code}: {message.message}")
        if envelope.event_seq:
            resume.last_event_seq = envelope.event_seq


while True:
    outgoing = queue.SimpleQueue()
    try:
        with grpc.insecure_channel(SERVER) as channel:
            stream = RuntimeServiceStub(channel).Session(iter(outgoing.get, None))
            follow(lambda envelope: outgoing.put(SessionRequest(envelope=envelope)), stream)
    except grpc.RpcError as error:
        print(f"{error.code().name}, dialling again", file=sys.stderr, flush=True)
    finally:
        outgoing.put(None)
    time.sleep(0.2)
