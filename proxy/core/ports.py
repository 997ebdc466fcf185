"""What the engine asks of the world: a clock, an upstream, a place to write the answer. Implementations live at the edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

HeaderList = Sequence[tuple[bytes, bytes]]


class Clock(Protocol):
    """Monotonic time decides, wall time is only written down."""

    def monotonic(self) -> float: ...
    def wall(self) -> float: ...


class Origin(NamedTuple):
    """Whom to connect to, and how. One connection pool each, found by its hash for every request.

    `proxy_url` is an `http://[user:pass@]host:port` for CONNECT.
    """

    scheme: str
    host: str
    port: int
    ca_file: str | None = None
    proxy_url: str | None = None

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, eq=False)
class RequestHead:
    """A request but for its body, made once per target and credential and used for every call.

    `path` is origin-form with its query. `headers` are lower-case and complete except `host` and `content-length`, which a transport adds.
    `rendered` is the HTTP/1.1 head up to and including `content-length: `, so that a call appends only the number.
    Holds a credential: never put it into a log or an exception.
    """

    origin: Origin
    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    rendered: bytes

    @classmethod
    def make(cls, origin: Origin, method: str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> RequestHead:
        lines = [f"{method} {path} HTTP/1.1\r\nhost: {origin.authority}\r\n".encode("ascii")]
        lines += [b"%s: %s\r\n" % (name, value) for name, value in headers]
        lines.append(b"content-length: ")
        return cls(origin, method, path, tuple(headers), b"".join(lines))

    def __repr__(self) -> str:
        return f"RequestHead({self.method} {self.origin.authority}{self.path})"


class UpstreamResponse(Protocol):
    """A response whose head has arrived. Header names are lower-case. Not for use by two tasks."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> HeaderList: ...
    @property
    def reused(self) -> bool:
        """It came over a connection that had served before."""

    def at_hand(self) -> bytes | None:
        """The whole body, if all of it has come and none was read; then there is no more. None: it is to be read."""

    async def pump(self, consume: Callable[[bytes], bool]) -> bool:
        """Hand the body to `consume`, piece by piece as it arrives, until it returns False; true when the body has ended.

        `consume` must not block; what it raises is raised here. Otherwise as `read`.
        """

    async def read(self) -> bytes:
        """The next bytes of the body, as many as are there; `b""` at its end.

        Raises UpstreamError (reset_body, truncated, malformed, too_large). Cancellation is safe: `close` afterwards, or go on reading.
        """

    def close(self) -> None:
        """Idempotent, synchronous: a connection whose body was read to its end serves again, any other is cut at once."""


class UpstreamTransport(Protocol):
    async def send(self, head: RequestHead, body: bytes, *, connect_timeout_s: float, fresh: bool = False) -> UpstreamResponse:
        """Send and wait for the response's head. `fresh` forbids a pooled connection.

        Raises UpstreamError: connect, dns, connect_timeout, tls, stale_retry (only on a reused connection), reset, malformed,
        too_large. Sets no other time limit: the caller cancels. A cancelled call leaves nothing behind.
        """

    async def aclose(self) -> None: ...


class Sink(Protocol):
    """Where an answer goes. One of `respond`, or `start` then `push`* then `finish`, or `start` then `abort`.

    `start` only remembers the head: it leaves with the first bytes. After a `push` that returned False comes `drain`.
    """

    async def respond(self, status: int, headers: HeaderList, body: bytes) -> None: ...
    def start(self, status: int, headers: HeaderList) -> None: ...
    def push(self, data: bytes) -> bool:
        """Send a part without waiting. False: that was enough for now."""

    async def drain(self) -> None:
        """Wait until more can be sent."""

    async def finish(self, data: bytes = b"") -> None: ...
    def abort(self) -> None: ...
