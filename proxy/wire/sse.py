"""Server-sent events: bytes in, whole events out, however the bytes were cut.

    stream = [BOM] event*        event = line* blank-line        line = field [":" [" "] value] | ":" comment
    https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

An event is given as its raw lines, without the blank line that ends it and with line ends as `\\n`, so that a clean one can go on
byte for byte. Only CR and LF end a line: U+2028 and U+0085 are data, which is why `splitlines` is not used.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """An event grew past MAX_EVENT_BYTES."""


class SseSplitter:
    """Cuts a byte stream into events. Linear in the bytes, however small the pieces; holds at most one unfinished event."""

    __slots__ = ("_held_cr", "_pieces", "_size", "_started", "max_event_bytes")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.max_event_bytes = max_event_bytes
        self._pieces: list[bytes] = []  # of the unfinished event
        self._size = 0
        self._held_cr = False
        self._started = False

    def feed(self, data: bytes) -> list[bytes]:
        """Events that are complete now, never empty ones. Raises EventTooLarge."""
        if not self._started:
            data = self._without_bom(data)
        if self._held_cr or b"\r" in data:
            data = self._unix_line_ends(data)
        pieces = self._pieces
        if pieces:
            # the blank line may lie across the seam
            if b"\n\n" not in data and not (data[:1] == b"\n" and pieces[-1][-1:] == b"\n"):
                if data:
                    pieces.append(data)
                    self._grow(len(data))
                return []
            pieces.append(data)
            data = b"".join(pieces)
            pieces.clear()
            self._size = 0
        events = data.split(b"\n\n")
        rest = events.pop()
        if rest:
            pieces.append(rest)
            self._grow(len(rest))
        limit = self.max_event_bytes
        if len(data) > limit and max(map(len, events), default=0) > limit:
            raise EventTooLarge
        # more than one blank line between events leaves an empty piece, or one with a line end in front
        return [event.lstrip(b"\n") for event in events if event != b"" and event != b"\n"]

    @property
    def between_events(self) -> bool:
        """Nothing unfinished is held: what comes next begins an event."""
        return self._started and not self._pieces and not self._held_cr

    def close(self) -> bytes:
        """What stands unfinished at the end of the stream."""
        rest = b"".join(self._pieces).strip(b"\n")
        self._pieces.clear()
        self._size = 0
        return rest

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self.max_event_bytes:
            raise EventTooLarge

    def _without_bom(self, data: bytes) -> bytes:
        data = b"".join([*self._pieces, data])
        self._pieces.clear()
        self._size = 0
        if len(data) < len(_BOM) and _BOM.startswith(data):
            if data:
                self._pieces.append(data)
            return b""
        self._started = True
        return data.removeprefix(_BOM)

    def _unix_line_ends(self, data: bytes) -> bytes:
        """`\\r\\n` and a lone `\\r` become `\\n`; a `\\r` at the very end waits for what follows it."""
        if self._held_cr:
            data = b"\r" + data
        self._held_cr = data.endswith(b"\r")
        if self._held_cr:
            data = data[:-1]
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def event_data(event: bytes) -> bytes | None:
    """The payload of an event: its `data` lines joined by `\\n`, or None when it has none (a comment, a lone `event:`)."""
    if b"\n" not in event:
        if event.startswith(b"data:"):
            return event[6:] if event[5:6] == b" " else event[5:]
        return b"" if event == b"data" else None
    found = [event_data(line) for line in event.split(b"\n")]
    values = [value for value in found if value is not None]
    return b"\n".join(values) if values else None
