"""A job followed through broken connections: its session outlives them."""

import queue, sys, time, uuid

import grpc
from arcp.v1.envelope_pb2 import Envelope, SessionHello
from arcp.v1.runtime_service_pb2 import SessionRequest
from arcp.v1.runtime_service_pb2_grpc import RuntimeServiceStub

LAST = ("job_result", "job_error", "session_error")


def follow(server, token, submit):
    """What the runtime says of the job, each once and in order, to its end."""
    submit.idempotency_key = str(uuid.uuid4())  # sent twice, it is one job
    hello = SessionHello(client_name="python-example", client_version="1", auth_scheme="bearer",
                         auth_token=token, features=["progress", "result_chunk"])
    accepted = False
    while True:
        outgoing = queue.SimpleQueue()
        send = lambda **payload: outgoing.put(SessionRequest(
            envelope=Envelope(arcp="1.1", id=str(uuid.uuid4()), **payload)))
        send(session_hello=hello)
        try:
            with grpc.insecure_channel(server) as channel:
                stream = RuntimeServiceStub(channel).Session(iter(outgoing.get, None))
                for envelope in (envelope for response in stream for envelope in response.envelopes):
                    kind = envelope.WhichOneof("payload")
                    if envelope.event_seq:
                        hello.resume.last_event_seq = envelope.event_seq
                    if kind == "session_welcome":
                        hello.resume.session_id = envelope.session_id
                        hello.resume.resume_token = envelope.session_welcome.resume_token
                        if not accepted:
                            send(session_id=envelope.session_id, job_submit=submit)
                    accepted = accepted or kind == "job_accepted"
                    yield kind, getattr(envelope, kind)
                    if kind in LAST:
                        return
        except grpc.RpcError as error:
            print(f"dialling again: {error.code().name}", file=sys.stderr, flush=True)
        finally:
            outgoing.put(None)
        time.sleep(0.2)
