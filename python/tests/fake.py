"""A runtime that does what a test says, and a host that talks to it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import grpc
from arcpd_agent import Agent, Host
from arcpd_agent.backoff import Backoff
from arcpd_agent.connection import Server
from arcpd_agent.v1 import agent_host_service_pb2 as pb

TIMEOUT = 10


class Stream:
    """The runtime's side of one stream."""

    def __init__(self, requests: Any, context: grpc.ServicerContext) -> None:
        self.metadata = dict(context.invocation_metadata())
        self.context = context
        self._in: queue.Queue[pb.ServeRequest | None] = queue.Queue()
        self.out: queue.Queue[pb.ServeResponse | tuple[grpc.StatusCode, str]] = queue.Queue()
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()

    def _read(self, requests: Any) -> None:
        try:
            for request in requests:
                self._in.put(request)
        except Exception:
            pass
        self._in.put(None)

    def next(self) -> pb.ServeRequest | None:
        """None at the end of what the host sends."""
        return self._in.get(timeout=TIMEOUT)

    def ends(self) -> bool:
        """Whether nothing but heartbeats comes before the end of what the host sends."""
        while (request := self.next()) is not None:
            if not request.HasField("heartbeat"):
                return False
        return True

    def expect(self, kind: str) -> Any:
        """The next request, heartbeats aside."""
        while True:
            request = self.next()
            if request is not None and request.HasField("heartbeat") and kind != "heartbeat":
                continue
            assert request is not None and request.WhichOneof("message") == kind, request
            return getattr(request, kind)

    def quiet(self) -> bool:
        """Whether nothing but heartbeats has come by the second one."""
        beats = 0
        while beats < 2:
            request = self.next()
            if request is None or not request.HasField("heartbeat"):
                return False
            beats += 1
        return True

    def reports(self, until: int) -> list[pb.Report]:
        """Those up to and including number `until`."""
        seen: list[pb.Report] = []
        while not seen or seen[-1].seq < until:
            seen += self.expect("reports").reports
        return seen

    def say(self, **message: Any) -> None:
        self.out.put(pb.ServeResponse(**message))

    def end(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, text: str = "bye") -> None:
        self.out.put((code, text))

    def register(self, **fields: Any) -> pb.Register:
        """Answers the register; returns it."""
        register = self.expect("register")
        registered = pb.Registered(host_id="1", **fields)
        if not fields.get("heartbeat_interval"):
            registered.heartbeat_interval.FromMilliseconds(50)
        if not fields.get("lost_after"):
            registered.lost_after.FromSeconds(30)
        self.say(registered=registered)
        return register

    def assign(self, token: str = "t1", agent: str = "a", **fields: Any) -> pb.AssignmentRef:
        """Offers a job and reads that it is accepted."""
        ref = pb.AssignmentRef(job_id="j1", lease_token=token)
        fields.setdefault("input_json", "null")
        self.say(assign=pb.Assign(ref=ref, attempt=1, agent=agent, version="1", **fields))
        assert self.expect("accept").ref == ref
        return ref


class FakeRuntime:
    def __init__(self) -> None:
        self.streams: queue.Queue[Stream] = queue.Queue()
        self.hosts: list[Host] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        method = grpc.stream_stream_rpc_method_handler(
            self._serve, pb.ServeRequest.FromString, pb.ServeResponse.SerializeToString
        )
        handlers = {"Serve": method}
        service = grpc.method_handlers_generic_handler("arcp.v1.AgentHostService", handlers)
        self._server.add_generic_rpc_handlers((service,))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"http://127.0.0.1:{port}"
        self._server.start()

    def _serve(self, requests: Any, context: grpc.ServicerContext) -> Any:
        stream = Stream(requests, context)
        gone = (grpc.StatusCode.CANCELLED, "gone")
        if not context.add_callback(lambda: stream.out.put(gone)):
            # Over before it was looked at; nobody would ever say so again.
            return
        self.streams.put(stream)
        while isinstance(message := stream.out.get(), pb.ServeResponse):
            yield message
        context.abort(*message)

    def stream(self) -> Stream:
        """The next one that a host has dialled."""
        return self.streams.get(timeout=TIMEOUT)

    def stop(self) -> None:
        for host in self.hosts:
            host.give_up()
        self._server.stop(0).wait()


class Running:
    """A host in a thread; `result()` is how it ended."""

    def __init__(
        self,
        runtime: FakeRuntime,
        *agents: Agent,
        token: str | Callable[[], str] = "secret",
        **options: Any,
    ) -> None:
        # Dials again at once; how long it really waits is tested by itself.
        options.setdefault("backoff", Backoff(first=0.0))
        self.host = Host(agents, Server(runtime.address, token), **options)
        self._served: futures.Future[None] = futures.Future()
        # Not of a pool, whose threads a failed test would wait for.
        threading.Thread(target=self._serve, daemon=True).start()
        runtime.hosts.append(self.host)

    def _serve(self) -> None:
        try:
            self._served.set_result(self.host.serve())
        except BaseException as error:
            self._served.set_exception(error)

    def result(self) -> None:
        self._served.result(timeout=TIMEOUT)
