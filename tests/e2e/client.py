"""A caller: the plainest HTTP client there is, so that a test sees what came over the wire and nothing is repeated or mended."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

T = TypeVar("T")
WAIT_S = 30.0  # nothing takes that long unless it has gone wrong, however busy the machine
MESSAGES = [{"role": "user", "content": "Say hello to the end-to-end tests."}]


def until(condition: Callable[[], T | None], *, what: str, seconds: float = WAIT_S) -> T:
    """Polls until `condition` gives something; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True  # the framing ended as announced

    @property
    def id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def payloads(self) -> list[str]:
        """What stands behind `data: ` in each event of a stream."""
        events = self.body.decode().split("\n\n")
        assert events.pop() == "", "the last event is not ended"
        return [event.removeprefix("data: ") for event in events if not event.startswith(":")]

    @property
    def done(self) -> bool:
        return self.payloads[-1] == "[DONE]"

    @property
    def chunks(self) -> list[Any]:
        return [json.loads(payload) for payload in self.payloads if payload != "[DONE]"]

    @property
    def text(self) -> str:
        """The text of a completion, streamed or not."""
        if not self.headers["content-type"].startswith("text/event-stream"):
            return str(self.json["choices"][0]["message"]["content"])
        deltas = [choice["delta"].get("content") for chunk in self.chunks for choice in chunk.get("choices", [])]
        return "".join([delta for delta in deltas if delta])

    @property
    def error(self) -> dict[str, Any]:
        """The error of an answer that is one, or of the event that a broken stream ends with."""
        value = self.chunks[-1] if self.headers["content-type"].startswith("text/event-stream") else self.json
        assert set(value["error"]) == {"message", "type", "param", "code"}
        return dict(value["error"])


class Client:
    def __init__(self, port: int, headers: dict[str, str] | None = None) -> None:
        self.port = port
        self.headers = headers or {}

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            sent = {**({"content-type": "application/json"} if data is not None else {}), **self.headers, **(headers or {})}
            connection.request(method, path, data, sent)
            return _read(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers=headers)

    def chat(self, model: str, *, stream: bool = False, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
        return self.request("POST", "/v1/chat/completions", chat_body(model, stream=stream, **fields), headers)

    def row(self, request_id: str) -> dict[str, Any]:
        """The ledger's row of a request that has ended, once the drainer has taken it in."""

        def ended() -> dict[str, Any] | None:
            answer = self.get(f"/api/v1/requests/{request_id}")
            if answer.status != 200:
                return None
            row: dict[str, Any] = answer.json
            return row if row["outcome"] != "running" else None

        return until(ended, what=f"the row of {request_id}")

    def latest_row(self, model: str | None = None) -> dict[str, Any]:
        """The row of the last request (for `model`, if given), once that has ended: a request that runs has a row, too."""

        def ended() -> str | None:
            rows = self.get("/api/v1/requests?limit=1" + (f"&model={quote(model)}" if model else "")).json["data"]
            return rows[0]["id"] if rows and rows[0]["outcome"] != "running" else None

        return self.row(until(ended, what=f"the row of a request for {model or 'any model'}"))

    def target(self, provider: str, model: str) -> dict[str, Any]:
        """The state of a target as the admin API tells it."""
        for entry in self.get("/api/v1/providers").json["data"]:
            for target in entry["targets"]:
                if (entry["name"], target["model"]) == (provider, model):
                    return dict(target)
        raise AssertionError(f"no target {provider}/{model}")

    def metrics(self) -> dict[str, float]:
        """Sample -> value, samples as they are written: `name{label="value"}`."""
        lines = self.get("/metrics").body.decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    @contextmanager
    def open(self, model: str, *, headers: dict[str, str] | None = None, **fields: Any) -> Iterator[OpenStream]:
        """A request that is read piece by piece."""
        stream = OpenStream(self.port, chat_body(model, **{"stream": True, **fields}), {**self.headers, **(headers or {})})
        try:
            yield stream
        finally:
            stream.leave()


class OpenStream:
    def __init__(self, port: int, body: dict[str, Any], headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        self._connection.request(
            "POST", "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json", **headers}
        )
        self._response: http.client.HTTPResponse | None = None

    @property
    def response(self) -> http.client.HTTPResponse:
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def until_text(self, text: str) -> bytes:
        """Reads until `text` has come."""
        seen = b""
        while text.encode() not in seen:
            piece = self.response.read1(65536)
            assert piece, f"{text!r} never came: {seen!r}"
            seen += piece
        return seen

    def rest(self) -> Answer:
        return _read(self.response)

    def leave(self) -> None:
        """Hangs up."""
        if self._response is not None:
            self._response.close()
        self._connection.close()


def chat_body(model: str, *, stream: bool = False, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, **({"stream": True} if stream else {}), **fields}


def _read(response: http.client.HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    try:
        return Answer(response.status, headers, response.read())
    except http.client.IncompleteRead as error:
        return Answer(response.status, headers, error.partial, whole=False)


def raw_exchange(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """Sends exactly these bytes and reads until the server closes, or for a second after an answer that keeps the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        seen = b""
        try:
            while piece := connection.recv(65536):
                seen += piece
        except ConnectionResetError:
            pass
        return seen
