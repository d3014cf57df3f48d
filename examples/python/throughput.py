"""How fast a client and an agent in Python can be, by how much is in a message.

Starts `arcpd serve` and `arcpd bench-floor` of the binary in ARCPD_BIN and prints
events a second, the median of five rounds each. After the first command of the
README beside this file:

    ARCPD_BIN=../../target/release/arcpd .venv/bin/python throughput.py

The client reads the floor's stream, which says exactly how many envelopes are in
a message, and then a job of the runtime, which sends what is ready. The agent
sends plain reports to the runtime and waits for the ack of the last.
"""

import json, os, queue, statistics, subprocess, tempfile, threading, time

import grpc
from arcp.v1 import agent_host_service_pb2 as host, envelope_pb2 as arcp, event_pb2 as event
from arcp.v1 import runtime_service_pb2 as runtime
from arcp.v1.agent_host_service_pb2_grpc import AgentHostServiceStub
from arcp.v1.runtime_service_pb2_grpc import RuntimeServiceStub

EVENTS, ROUNDS, BATCHES = 50_000, 5, (1, 16, 64)


def start(*arguments):
    # The runtime refuses what it does not know among ARCPD_*.
    env = {name: value for name, value in os.environ.items() if not name.startswith("ARCPD_")}
    command = [os.environ["ARCPD_BIN"], *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    for line in process.stderr:
        if '"listen"' in line and (listen := json.loads(line)["fields"].get("listen")):
            threading.Thread(target=lambda: [None for _ in process.stderr], daemon=True).start()
            return process, listen
    raise SystemExit("arcpd ended before it was ready")


class Session:
    def __init__(self, channel, name):
        self.outgoing = queue.SimpleQueue()
        self.responses = RuntimeServiceStub(channel).Session(iter(self.outgoing.get, None))
        self.say(session_hello=arcp.SessionHello(client_name=name, auth_scheme="bearer"))
        next(self.responses)

    def say(self, **payload):
        envelope = arcp.Envelope(arcp="1.1", id=str(time.monotonic_ns()), **payload)
        self.outgoing.put(runtime.SessionRequest(envelope=envelope))

    def read(self):
        """Events a second up to a terminal, from the first."""
        started, expected = None, 1
        for response in self.responses:
            for envelope in response.envelopes:
                if not envelope.event_seq:
                    continue
                started = started or time.perf_counter()
                assert envelope.event_seq == expected
                expected += 1
                if envelope.HasField("job_result"):
                    self.outgoing.put(None)
                    return expected / (time.perf_counter() - started)
        raise SystemExit("the stream ended early")


def read_floor(channel, batch):
    session = Session(channel, f"stream:{EVENTS}:{batch}")
    session.say(session_ping=arcp.SessionPing())
    return session.read()


def read_job(channel):
    session = Session(channel, "throughput")
    job = json.dumps({"events": EVENTS, "bytes": 128})
    session.say(job_submit=arcp.JobSubmit(agent="firehose", input_json=job))
    return session.read()


def report(channel, batch):
    outgoing = queue.SimpleQueue()
    say = lambda **message: outgoing.put(host.ServeRequest(**message))
    agents = [host.HostedAgent(name="fast", version="1.0.0")]
    say(register=host.Register(host_instance_id=str(time.monotonic_ns()), agents=agents))
    started = None
    for response in AgentHostServiceStub(channel).Serve(iter(outgoing.get, None)):
        if response.HasField("registered"):
            submitter = Session(channel, "submitter")
            submitter.say(job_submit=arcp.JobSubmit(agent="fast"))
        elif response.HasField("assign"):
            ref, started = response.assign.ref, time.perf_counter()
            say(accept=host.Accept(ref=ref))
            for first in range(1, EVENTS + 1, batch):
                log = event.JobEvent(log=event.Log(level="info", message="." * 128))
                numbers = range(first, min(first + batch, EVENTS + 1))
                reports = [host.Report(seq=seq, event=log) for seq in numbers]
                say(reports=host.Reports(ref=ref, reports=reports))
            done = host.Report(seq=EVENTS + 1, complete=host.Complete(result_json="1"))
            say(reports=host.Reports(ref=ref, reports=[done]))
        elif response.HasField("ack") and response.ack.seq > EVENTS:
            outgoing.put(None), submitter.outgoing.put(None)
            return EVENTS / (time.perf_counter() - started)


def main():
    with tempfile.TemporaryDirectory() as data:
        serve = ["serve", "--dev", "--demo-agents", "--listen", "127.0.0.1:0"]
        arcpd, address = start(*serve, "--admin-listen", "127.0.0.1:0", "--data-dir", data)
        floor, floor_address = start("bench-floor")
        channel, bare = grpc.insecure_channel(address), grpc.insecure_channel(floor_address)
        rows = [(f"client, {batch} a message", lambda batch=batch: read_floor(bare, batch)) for batch in BATCHES]
        rows += [("client, a job of arcpd", lambda: read_job(channel))]
        rows += [(f"agent, {batch} a message", lambda batch=batch: report(channel, batch)) for batch in BATCHES]
        try:
            for name, measure in rows:
                rate = statistics.median(measure() for _ in range(ROUNDS))
                print(f"{name:28} {rate / 1000:8.1f}k events/s")
        finally:
            arcpd.kill(), floor.kill()


if __name__ == "__main__":
    main()
