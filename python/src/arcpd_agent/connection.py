"""One stream to the runtime, from its register to its end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc

from .outbox import Outbox
from .v1 import agent_host_service_pb2 as pb

log = logging.getLogger("arcpd_agent")

METHOD = "/arcp.v1.AgentHostService/Serve"
# The answer to `register`, the dialling included.
HELLO_TIMEOUT = 20.0
# What the runtime has to say after this side is done.
GOODBYE_TIMEOUT = 5.0


@dataclass(frozen=True)
class Server:
    """`http://HOST:PORT`, `https://HOST:PORT`, or `HOST:PORT` for the former."""

    address: str
    # A function is asked whenever a token is needed, by the thread that needs it.
    token: str | Callable[[], str] = ""
    # PEM file of an authority to trust in place of the system's.
    ca: str | None = None

    def channel(self) -> grpc.Channel:
        # Of its own: a stream that is dialled again must not meet the old socket.
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        scheme, _, target = self.address.rpartition("://")
        if scheme not in ("", "http", "https"):
            raise ValueError(f"server: {self.address!r} begins with neither http:// nor https://")
        target = target.rstrip("/")
        if scheme != "https":
            return grpc.insecure_channel(target, options)
        roots = None
        if self.ca:
            with open(self.ca, "rb") as file:
                roots = file.read()
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(roots), options)

    def ask_token(self) -> str:
        return self.token() if callable(self.token) else self.token


class Connection:
    """Its heartbeat has a thread of its own, which also ends a stream on which
    nothing is heard: a connection can be dead without anybody saying so."""

    def __init__(
        self, server: Server, token: str, register: pb.Register, hello_timeout: float
    ) -> None:
        # The one the runtime has taken last, and the one it is to answer.
        self.token = token
        self._offered: str | None = None
        self.outbox = Outbox(pb.ServeRequest(register=register))
        self._channel = server.channel()
        serve = self._channel.stream_stream(
            METHOD,
            request_serializer=pb.ServeRequest.SerializeToString,
            response_deserializer=pb.ServeResponse.FromString,
        )
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._call = serve(iter(self.outbox), metadata=metadata)
        self._changed = threading.Condition()
        self._closed = False
        self._heard_at = time.monotonic()
        self._silence_max = hello_timeout
        self._interval: float | None = None
        threading.Thread(target=self._keep, name="arcpd-heartbeat", daemon=True).start()

    def responses(self) -> Iterator[pb.ServeResponse]:
        """Until the stream ends, with `grpc.RpcError` unless the end was orderly."""
        for response in self._call:
            self._heard_at = time.monotonic()
            yield response

    def registered(self, interval: float, lost_after: float) -> None:
        with self._changed:
            self._interval = interval
            self._silence_max = 2 * lost_after
            self._changed.notify()

    def offer_token(self, token: str) -> None:
        if token not in (self.token, self._offered):
            self._offered = token
            refresh = pb.RefreshAuth(bearer_token=token)
            self.outbox.put(pb.ServeRequest(refresh_auth=refresh))

    def token_answered(self, taken: bool) -> None:
        offered, self._offered = self._offered, None
        if taken and offered is not None:
            self.token = offered

    def finish(self) -> None:
        """Sends what is in line and ends the stream."""
        self.outbox.finish()
        with self._changed:
            self._heard_at = time.monotonic()
            self._silence_max = GOODBYE_TIMEOUT
            self._changed.notify()

    def abort(self) -> None:
        """The reader gets CANCELLED."""
        self._call.cancel()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self.outbox.close()
        self._call.cancel()
        self._channel.close()

    def _keep(self) -> None:
        beat_at, nonce = 0.0, 0
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                silent_at = self._heard_at + self._silence_max
                if now >= silent_at:
                    log.warning("nothing heard for %.1f s; dialling again", self._silence_max)
                    self._call.cancel()
                    return
                wait = silent_at - now
                if self._interval is not None:
                    if now >= beat_at:
                        nonce += 1
                        self.outbox.put(pb.ServeRequest(heartbeat=pb.Heartbeat(nonce=nonce)))
                        beat_at = now + self._interval
                    wait = min(wait, beat_at - now)
                self._changed.wait(wait)
