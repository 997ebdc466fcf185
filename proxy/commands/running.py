"""The proxy that writes the ledger, or one that runs where the configuration says, asked over HTTP. It need not run: then there is no
answer, and no failure."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from proxy.config import whereabouts
from proxy.config.settings import Settings

TIMEOUT_S = 20.0  # the longest question is a health check of every provider
HERE_S = 1.0
MAX_ANSWER_BYTES = 32 << 20
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared, not bound


class NotRunning(Exception):
    """Nobody answers there, or something else than this program."""


@dataclass(frozen=True, slots=True)
class Answered:
    """`status` None: it is there, and did not answer within TIMEOUT_S."""

    status: int | None
    body: Any

    @property
    def problem(self) -> str:
        """What an error says."""
        if self.status is None:
            return "the running proxy did not answer"
        error = self.body.get("error") if isinstance(self.body, dict) else None
        message = error.get("message") if isinstance(error, dict) else None
        return f"the running proxy answered {self.status}" + (f": {message}" if message else "")


class Running:
    """One proxy. `host` and `port` instead of the configuration's are those of one that was started for the purpose."""

    def __init__(self, settings: Settings, *, host: str | None = None, port: int | None = None) -> None:
        known = whereabouts.ask(settings.data_dir) if port is None else None
        server_host, server_port = known or (settings.server.host, settings.server.port)
        self.host = host or _EVERYWHERE.get(server_host, server_host)
        self.port = server_port if port is None else port
        self._token = settings.admin_token

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def state(self) -> str:
        """`ready`, `not ready (503)`, `not running`, or that something else answers."""
        try:
            status = self._send("GET", "/readyz", None, HERE_S).status
        except NotRunning as reason:
            return str(reason)
        return "ready" if status == 200 else f"not ready ({status})"

    def ask(self, path: str, *, method: str = "GET", body: Any = None) -> Answered:
        """With the administrator's token where the configuration has one. Raises NotRunning; one that is there and gives no answer
        to this is another matter."""
        self._send("GET", "/livez", None, HERE_S)
        try:
            return self._send(method, path, body, TIMEOUT_S)
        except NotRunning:
            return Answered(None, None)

    def get(self, path: str) -> Any:
        """The answer, None if there is no proxy that gives one."""
        try:
            answered = self.ask(path)
        except NotRunning:
            return None
        return answered.body if answered.status == 200 else None

    def _send(self, method: str, path: str, body: Any, timeout_s: float) -> Answered:
        headers = {"authorization": f"Bearer {self._token.reveal()}"} if self._token is not None else {}
        payload = None if body is None else json.dumps(body).encode()
        if payload is not None:
            headers["content-type"] = "application/json"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request(method, path, payload, headers)
            response = connection.getresponse()
            text = response.read(MAX_ANSWER_BYTES)
            if response.getheader("x-request-id") is None:
                raise NotRunning("no proxy answers there")
            return Answered(response.status, _loads(text))
        except (OSError, http.client.HTTPException) as error:
            raise NotRunning("not running") from error
        finally:
            connection.close()


def _loads(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
