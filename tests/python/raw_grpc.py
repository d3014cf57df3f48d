"""A client made of generated stubs alone: `raw_grpc.py SCENARIO ADDRESS TOKEN STUBS`."""

import queue
import sys

SCENARIO, ADDRESS, TOKEN, STUBS = sys.argv[1:5]
sys.path.insert(0, STUBS)

import grpc
from arcp.v1 import envelope_pb2, runtime_service_pb2, runtime_service_pb2_grpc

EVENTS = 5_000


class Session:
    def __init__(self, resume=None):
        self.channel = grpc.insecure_channel(ADDRESS)
        self.outgoing = queue.SimpleQueue()
        self.session_id, self.ready, self.sent = "", [], 0
        stub = runtime_service_pb2_grpc.RuntimeServiceStub(self.channel)
        self.responses = stub.Session(iter(self.outgoing.get, None), timeout=40)
        hello = envelope_pb2.SessionHello(
            client_name="raw", client_version="1", auth_scheme="bearer", auth_token=TOKEN,
            features=["subscribe", "progress", "result_chunk"], resume=resume)
        self.send(session_hello=hello)
        first = self.recv()
        assert first.WhichOneof("payload") == "session_welcome", first
        self.session_id, self.token = first.session_id, first.session_welcome.resume_token

    def send(self, job_id="", **payload):
        self.sent += 1
        envelope = envelope_pb2.Envelope(
            arcp="1.1", id=f"m{self.sent}", session_id=self.session_id, job_id=job_id, **payload)
        self.outgoing.put(runtime_service_pb2.SessionRequest(envelope=envelope))

    def recv(self):
        while not self.ready:
            self.ready = list(next(self.responses).envelopes)
        return self.ready.pop(0)

    def numbered(self):
        while True:
            envelope = self.recv()
            if envelope.event_seq:
                yield envelope

    def submit(self):
        text = '{"events": %d, "bytes": 64}' % EVENTS
        self.send(job_submit=envelope_pb2.JobSubmit(agent="firehose", input_json=text))


def check(envelopes, first):
    seqs = []
    for envelope in envelopes:
        seqs.append(envelope.event_seq)
        kind = envelope.WhichOneof("payload")
        if kind == "job_event":
            assert envelope.job_event.log.message.startswith("%08d" % (envelope.event_seq - 1))
        else:
            assert envelope.job_result.result_json == '{"emitted":%d}' % EVENTS, envelope
            break
    assert seqs == list(range(first, EVENTS + 2)), (len(seqs), seqs[:5])


def session():
    peer = Session()
    peer.submit()
    check(peer.numbered(), 1)
    peer.outgoing.put(None)


def resume():
    peer = Session()
    peer.submit()
    for envelope in peer.numbered():
        if envelope.event_seq == 1_000:
            break
    peer.channel.close()
    again = Session(envelope_pb2.Resume(
        session_id=peer.session_id, resume_token=peer.token, last_event_seq=1_000))
    assert again.session_id == peer.session_id
    check(again.numbered(), 1_001)
    again.outgoing.put(None)


def health_and_reflection():
    # Neither has stubs here: both messages are short enough to be read by hand.
    channel = grpc.insecure_channel(ADDRESS)
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert check(b"", timeout=10) == b"\x08\x01"
    name = b"arcp.v1.RuntimeService"
    assert check(b"\x0a" + bytes([len(name)]) + name, timeout=10) == b"\x08\x01"
    for version in ("v1", "v1alpha"):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        answers = channel.stream_stream(path)(iter([b"\x3a\x01*"]), timeout=10)
        assert b"arcp.v1.RuntimeService" in next(answers)


globals()[SCENARIO]()
