"""What a wire format must be able to do. One file per format implements these; bytes in, bytes and facts out, no I/O, no clock.

An upstream that speaks the caller's own format is passed through: the parsed request is patched and dumped once, the answer is checked
and goes on byte for byte. `AnswerStream` is what the engine sees of a streamed answer, whoever made the bytes: a format that needs
translating implements the same protocol, so the engine does not learn of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.core.chat import ChatRequest
from proxy.core.errors import ProxyError, UpstreamError
from proxy.core.target import Target
from proxy.core.usage import Usage

MAX_KEPT_TEXT_BYTES = 256 * 1024  # of an answer, so that it can be counted when the upstream reports no usage
# what a look into JSON of another shape than expected raises: the upstream's fault, never to be the proxy's
WRONG_SHAPE = (AttributeError, IndexError, KeyError, TypeError, ValueError)


@dataclass(slots=True)
class OutboundRequest:
    """`path` stands under the provider's base_url. `dropped` names the caller's parameters that the target does not take."""

    path: str
    body: bytes
    dropped: tuple[str, ...]


@dataclass(slots=True)
class WholeAnswer:
    """An unstreamed answer, ready for the caller. `usage` None: the upstream reported none."""

    body: bytes
    usage: Usage | None
    finish_reason: str | None
    mended: bool = False


class AnswerStream(Protocol):
    """A streamed answer on its way through. State only grows; `error` ends it: what `feed` returned before it may still be sent.

    `committed`: content has been seen. `done`: the answer is complete and `close` will say so. `events`: complete events so far.
    """

    @property
    def committed(self) -> bool: ...
    @property
    def done(self) -> bool: ...
    @property
    def finish_reason(self) -> str | None: ...
    @property
    def error(self) -> UpstreamError | None: ...
    @property
    def events(self) -> int: ...
    @property
    def malformed(self) -> int: ...
    @property
    def mended(self) -> int: ...
    @property
    def end_mark_missing(self) -> bool: ...
    @property
    def usage(self) -> Usage | None: ...

    @property
    def text(self) -> bytes | bytearray:
        """Of what has come, thoughts and tool calls included, the first MAX_KEPT_TEXT_BYTES or a little more."""
        ...

    @property
    def text_bytes(self) -> int: ...

    def feed(self, data: bytes) -> bytes:
        """Bytes for the caller, perhaps none. Never raises; see `error`."""
        ...

    def close(self) -> bytes:
        """Upstream's bytes have ended, or `done`: the last bytes for the caller. Sets `error` when the answer was not whole."""
        ...


class OutboundDialect(Protocol):
    """Us to upstream and back. `stream_type` is the content type of its streams, lower-case: what else comes is looked at first."""

    @property
    def stream_type(self) -> bytes: ...

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        """Raises CallerError, and CannotCarry for what the format has no words for."""
        ...

    def decode_answer(self, body: bytes, request: ChatRequest, target: Target) -> WholeAnswer:
        """Raises UpstreamError for an error in disguise, an empty answer, or bytes that are no answer."""
        ...

    def text_of(self, body: bytes) -> bytes:
        """The text of a whole answer, tool calls and reasoning included, so that it can be counted."""
        ...

    def answer_stream(self, request: ChatRequest, target: Target) -> AnswerStream: ...

    def stream_from_whole(self, body: bytes, request: ChatRequest) -> bytes:
        """A whole answer as the stream that was asked for, its end included."""
        ...

    def decode_error(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> UpstreamError: ...


class InboundDialect(Protocol):
    """The caller to us and back."""

    def decode_request(self, body: bytes) -> ChatRequest:
        """Raises a CallerError that says what is wrong and where."""
        ...

    def encode_error(self, error: ProxyError) -> bytes: ...

    def stream_error(self, error: ProxyError) -> bytes:
        """The last event of a stream that broke: an error, and no end mark."""
        ...
