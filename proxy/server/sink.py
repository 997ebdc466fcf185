"""The engine's `Sink` over ASGI: the same answers under any ASGI server, and in tests.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

from starlette.types import Message, Receive, Send

from proxy.core.ports import HeaderList
from proxy.engine.control import Control


class AsgiSink:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._head: Message | None = None
        self._pushed: list[bytes] = []
        self.started = False

    async def respond(self, status: int, headers: HeaderList, body: bytes) -> None:
        self.started = True
        length = (b"content-length", b"%d" % len(body))
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def start(self, status: int, headers: HeaderList) -> None:
        self.started = True
        self._head = {"type": "http.response.start", "status": status, "headers": list(headers)}

    def push(self, data: bytes) -> bool:
        # ASGI sends by awaiting: what is pushed goes out with the `drain` that is thereby asked for
        self._pushed.append(data)
        return False

    async def drain(self) -> None:
        await self._send_head()
        await self._send({"type": "http.response.body", "body": self._take(), "more_body": True})

    async def finish(self, data: bytes = b"") -> None:
        await self._send_head()
        await self._send({"type": "http.response.body", "body": self._take() + data, "more_body": False})

    def abort(self) -> None:
        """ASGI has no way to cut an answer but to return before it is whole; servers then close the connection."""

    def _take(self) -> bytes:
        data = b"".join(self._pushed)
        self._pushed.clear()
        return data

    async def _send_head(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            await self._send(head)


async def watch_for_hangup(receive: Receive, control: Control) -> None:
    """Runs beside the engine once the request has been read: the next message can only be the caller's leaving."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            control.client_gone()
            return
