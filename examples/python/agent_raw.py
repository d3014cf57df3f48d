"""`echo` out of stubs alone: no reconnect, nothing is sent again. agent.py has both."""

import os, queue, threading

import grpc
from arcp.v1.agent_host_service_pb2 import (
    Accept, Complete, Heartbeat, HostedAgent, Register, Report, Reports, ServeRequest)
from arcp.v1.agent_host_service_pb2_grpc import AgentHostServiceStub
from arcp.v1.event_pb2 import JobEvent, Log

outgoing = queue.SimpleQueue()
send = lambda **message: outgoing.put(ServeRequest(**message))
channel = grpc.insecure_channel(os.environ.get("ARCPD_SERVER", "127.0.0.1:7777").removeprefix("http://"))
metadata = [("authorization", f"Bearer {os.environ.get('ARCPD_TOKEN', '')}")]


def beat(interval):
    while not threading.Event().wait(interval):
        send(heartbeat=Heartbeat())


send(register=Register(host_name="raw", host_instance_id=str(os.getpid()),
                       agents=[HostedAgent(name="echo", version="1.0.0")], max_in_flight=4))
for response in AgentHostServiceStub(channel).Serve(iter(outgoing.get, None), metadata=metadata):
    if response.HasField("registered"):
        interval = response.registered.heartbeat_interval.ToMilliseconds() / 1000
        threading.Thread(target=beat, args=[interval], daemon=True).start()
        print("registered", flush=True)
    elif response.HasField("assign"):
        ref, text = response.assign.ref, response.assign.input_json
        send(accept=Accept(ref=ref))
        send(reports=Reports(ref=ref, reports=[
            Report(seq=1, event=JobEvent(log=Log(level="info", message="echoing"))),
            Report(seq=2, complete=Complete(result_json=text))]))
