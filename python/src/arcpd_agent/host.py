"""The process as the runtime sees it: dials, keeps its jobs, dials again."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from .agent import REGISTERED, Agent
from .assignment import Assignment, Limits
from .backoff import Backoff
from .connection import HELLO_TIMEOUT, Connection, Server
from .errors import Refused
from .runner import run_job
from .v1 import agent_host_service_pb2 as pb

log = logging.getLogger("arcpd_agent")

Key = tuple[str, str]

# After these, dialling again would be answered the same.
FATAL = ("UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT")


class Host:
    """`serve()` blocks until `stop()` and the end of what runs, or a `Refused`."""

    def __init__(
        self,
        agents: Sequence[Agent],
        server: Server,
        *,
        name: str = "",
        max_in_flight: int = 8,
        labels: dict[str, str] | None = None,
        drain_sec: float = 20.0,
        backoff: Backoff | None = None,
        hello_timeout: float = HELLO_TIMEOUT,
        token_refresh_sec: float = 60.0,
    ) -> None:
        if not agents:
            raise ValueError("there is no agent; decorate a function with @agent")
        self._agents = {(agent.name, agent.version): agent for agent in agents}
        self._server = server
        self._name = name or socket.gethostname()[:128]
        self._instance_id = uuid.uuid4().hex
        self._max_in_flight = max_in_flight
        self._labels = labels or {}
        self._drain_sec = drain_sec
        self._backoff = backoff or Backoff()
        self._hello_timeout = hello_timeout
        self._token_refresh_sec = token_refresh_sec
        self._limits = Limits()
        # Guards what follows; never held while something else is called.
        self._lock = threading.Lock()
        self._held: dict[Key, Assignment] = {}
        self._connection: Connection | None = None
        # Of a connection that is registered.
        self._open: Connection | None = None
        self._reconnect_after: float | None = None
        self._stopping = threading.Event()
        self._over = threading.Event()
        # When the runtime takes from a host that stops what still runs.
        self._drained_at = 0.0
        self._given_up = False

    # -- life -----------------------------------------------------------------

    def serve(self) -> None:
        if callable(self._server.token):
            threading.Thread(target=self._keep_token, name="arcpd-token", daemon=True).start()
        try:
            while not self._is_done():
                end = self._serve_once()
                if self._is_done():
                    break
                wait = self._wait()
                log.info("%s; dialling again in %.2f s", end, wait)
                # One that stops has jobs to finish, so it dials all the same.
                if self._stopping.is_set():
                    time.sleep(wait)
                else:
                    self._stopping.wait(wait)
        except Refused as refused:
            for assignment in self._all():
                assignment.fence(str(refused))
            raise
        finally:
            self._over.set()

    def refresh_auth(self) -> None:
        """Asks for the token again and tells the runtime a new one; done by itself
        every `token_refresh_sec` where the token is a function."""
        token = self._server.ask_token()
        with self._lock:
            connection = self._open
        if connection is not None:
            connection.offer_token(token)

    def _keep_token(self) -> None:
        while not self._over.wait(self._token_refresh_sec):
            try:
                self.refresh_auth()
            except Exception:
                log.exception("no token; the one before is used on")

    def stop(self) -> None:
        """No new jobs; returns at once, and `serve` when those that run have ended."""
        if self._stopping.is_set():
            return
        self._drained_at = time.monotonic() + self._drain_sec
        self._stopping.set()
        with self._lock:
            connection = self._open
        if connection is not None:
            self._say_draining(connection)
        # After that: what is given back at the deadline comes behind it.
        timer = threading.Timer(self._drain_sec, self.give_up)
        timer.daemon = True
        timer.start()
        self._settle()

    def give_up(self) -> None:
        """Gives back what still runs; `serve` returns. For when the drain deadline is over."""
        self._stopping.set()
        with self._lock:
            self._given_up = True
            connection = self._open or self._connection
        if connection is None:
            return
        for held in self._all():
            decline = pb.Decline(ref=held.ref, reason="the host's drain deadline is over")
            connection.outbox.put(pb.ServeRequest(decline=decline))
            held.fence("the host stops")
        connection.finish()

    def _is_done(self) -> bool:
        with self._lock:
            return self._stopping.is_set() and (self._given_up or not self._held)

    def _wait(self) -> float:
        after, self._reconnect_after = self._reconnect_after, None
        return self._backoff.next() if after is None else after

    def _say_draining(self, connection: Connection) -> None:
        draining = pb.Draining()
        left = max(self._drained_at - time.monotonic(), 0.0)
        draining.deadline.FromMilliseconds(int(left * 1000))
        connection.outbox.put(pb.ServeRequest(draining=draining))

    def _all(self) -> list[Assignment]:
        with self._lock:
            return list(self._held.values())

    # -- one connection -------------------------------------------------------

    def _serve_once(self) -> str:
        """Returns why the stream has ended."""
        try:
            token = self._server.ask_token()
        except Exception as error:
            return f"no token: {error}"
        connection = Connection(self._server, token, self._register(), self._hello_timeout)
        with self._lock:
            self._connection = connection
        try:
            for response in connection.responses():
                self._receive(connection, response)
            return "the runtime ended the stream"
        except grpc.RpcError as error:
            code, text = _status(error)
            if code in FATAL and not self._may_dial_anew(code, connection.token):
                raise Refused(code, text) from None
            return f"{code}: {text}"
        finally:
            with self._lock:
                self._connection = self._open = None
            # Before the jobs are let go of, or its sender could take from them.
            connection.close()
            for assignment in self._all():
                assignment.detach()

    def _may_dial_anew(self, code: str, refused: str) -> bool:
        """A token that has run out is no refusal while there is another."""
        if code != "UNAUTHENTICATED" or not callable(self._server.token):
            return False
        try:
            return self._server.ask_token() != refused
        except Exception:
            log.exception("no token")
            return True

    def _register(self) -> pb.Register:
        return pb.Register(
            host_name=self._name,
            host_instance_id=self._instance_id,
            agents=[agent.hosted() for agent in self._agents.values()],
            max_in_flight=self._max_in_flight,
            labels=self._labels,
            resume=[pb.HeldAssignment(ref=held.ref) for held in self._all()],
            sdk_name="arcpd-agent-python",
            sdk_version="0.1.0",
        )

    def _receive(self, connection: Connection, response: pb.ServeResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "registered":
            self._registered(connection, response.registered)
        elif kind == "assign":
            self._assigned(connection, response.assign)
        elif kind == "ack":
            if held := self._find(response.ack.ref):
                held.ack(response.ack.seq)
        elif kind == "cancel":
            if held := self._find(response.cancel.ref):
                held.cancel()
        elif kind == "revoked":
            if held := self._find(response.revoked.ref):
                held.fence(response.revoked.reason)
        elif kind == "credentials":
            if held := self._find(response.credentials.ref):
                held.wallet.set(response.credentials.credentials_json)
        elif kind == "auth_refreshed":
            connection.token_answered(taken=True)
        elif kind in ("authorize_result", "delegate_result", "child_ended"):
            answer = getattr(response, kind)
            if held := self._find(answer.ref):
                held.answer(answer)
        elif kind == "rejected":
            self._rejected(connection, response.rejected)
        elif kind == "drain":
            after = response.drain.reconnect_after
            self._reconnect_after = after.ToMilliseconds() / 1000
        self._settle()

    def _find(self, ref: pb.AssignmentRef) -> Assignment | None:
        with self._lock:
            return self._held.get((ref.job_id, ref.lease_token))

    def _settle(self) -> None:
        """Forgets what is over; the last one of a host that stops ends its stream."""
        with self._lock:
            for key in [key for key, held in self._held.items() if held.is_over()]:
                del self._held[key]
            done = self._stopping.is_set() and not self._held
            connection = self._connection
        if done and connection is not None:
            connection.finish()

    def _registered(self, connection: Connection, registered: pb.Registered) -> None:
        self._limits.set(registered)
        lost_after = registered.lost_after.ToMilliseconds() / 1000
        interval = registered.heartbeat_interval.ToMilliseconds() / 1000
        self._backoff.reset()
        self._backoff.cap_at(lost_after / 3)
        connection.registered(interval, lost_after)
        log.info("registered with arcpd %s as %s", registered.runtime_version, registered.host_id)
        with self._lock:
            self._open = connection
        keep = {(kept.ref.job_id, kept.ref.lease_token): kept for kept in registered.keep}
        for held in self._all():
            kept = keep.get(held.key)
            if kept is None:
                held.fence("the runtime gave the job up while this host was away")
                continue
            held.reattach(kept.acked_seq)
            if kept.cancelled:
                held.cancel()
            connection.outbox.ready(held)
        if self._stopping.is_set():
            self._say_draining(connection)

    def _assigned(self, connection: Connection, assign: pb.Assign) -> None:
        agent = self._agents.get((assign.agent, assign.version))
        if agent is None or self._stopping.is_set():
            reason = "the host stops" if agent else "the host has no such agent"
            decline = pb.Decline(ref=assign.ref, reason=reason)
            connection.outbox.put(pb.ServeRequest(decline=decline))
            return
        assignment = Assignment(assign, self._limits, self._on_ready)
        with self._lock:
            self._held[assignment.key] = assignment
        connection.outbox.put(pb.ServeRequest(accept=pb.Accept(ref=assign.ref)))
        job = f"arcpd-{assign.ref.job_id}"
        # A daemon: an agent that never ends must not keep the process.
        threading.Thread(
            target=run_job, args=(agent, assignment), name=job, daemon=True
        ).start()

    def _on_ready(self, assignment: Assignment) -> None:
        with self._lock:
            connection = self._open
        if connection is not None:
            connection.outbox.ready(assignment)

    def _rejected(self, connection: Connection, rejected: pb.Rejected) -> None:
        log.error("job %s: the runtime rejected: %s", rejected.ref.job_id, rejected.message)
        if rejected.message.startswith("refresh_auth"):
            # Asked for again when the next refresh is due.
            connection.token_answered(taken=False)
        if rejected.seq == 0 and self._find(rejected.ref):
            # Reports of which none was taken: the numbers must be agreed on anew.
            connection.abort()


def _status(error: grpc.RpcError) -> tuple[str, str]:
    code, details = getattr(error, "code", None), getattr(error, "details", None)
    status = code() if code else None
    text = details() if details else None
    return (status.name if status else "UNKNOWN", text or str(error))


def run(
    server: str | None = None,
    token: str | Callable[[], str] | None = None,
    *,
    agents: Sequence[Agent] | None = None,
    ca: str | None = None,
    **options: Any,
) -> None:
    """Serves every `@agent` of the program until SIGTERM or SIGINT.

    `server`, `token` and `ca` are ARCPD_SERVER, ARCPD_TOKEN and ARCPD_CA unless
    given. A token that is a function is asked for one whenever the host dials, and
    every `token_refresh_sec`: a stream outlives the token it began with. The options are those of `Host`. Ends the program with a message when
    the runtime refuses it. On SIGTERM no new jobs are taken and those that run may
    end; a second one ends the program at once.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    where = Server(
        server or os.environ.get("ARCPD_SERVER") or "http://127.0.0.1:7777",
        os.environ.get("ARCPD_TOKEN", "") if token is None else token,
        ca or os.environ.get("ARCPD_CA"),
    )
    host = Host(REGISTERED if agents is None else agents, where, **options)
    refused: list[BaseException] = []
    wake = threading.Event()

    def serve() -> None:
        try:
            host.serve()
        except BaseException as error:
            refused.append(error)
        finally:
            wake.set()

    asked = False

    def on_signal(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise SystemExit(128 + number)
        asked = True
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    # Not on this thread, which a signal must find waiting.
    thread = threading.Thread(target=serve, name="arcpd-host", daemon=True)
    thread.start()
    wake.wait()
    host.stop()
    thread.join()
    for error in refused:
        if isinstance(error, Refused):
            sys.exit(f"the runtime at {where.address} refused this host: {error}")
        raise error
