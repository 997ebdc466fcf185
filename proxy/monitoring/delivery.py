"""Brings alerts to those who want to know: the log always, webhooks and whatever Apprise reaches as `alerts.to` says.

Nothing here holds up the proxy: each destination has a queue of its own and a task while there is something in it. What a destination
does not take is tried again a few times, in order, unless it was refused for good; then it is given up and counted. The address of a
destination is a secret, since whoever knows it can write there: it is in no message.

Slack's format: https://api.slack.com/messaging/webhooks and https://api.slack.com/reference/messaging/attachments
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import re
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

import orjson

from proxy.config.settings import Destination
from proxy.core.alerts import SEVERITIES, help_for
from proxy.core.redact import Redactor, one_line
from proxy.monitoring.alerts import Notice
from proxy.monitoring.query import rfc3339
from proxy.upstream.tls import client_context

MAX_QUEUE = 100  # a destination that takes nothing loses what comes beyond
RETRIES_S = (1.0, 5.0, 25.0, 125.0)  # the waits before each further try
MAX_RETRY_AFTER_S = 300.0
TIMEOUT_S = 10.0
APPRISE_TIMEOUT_S = 60.0  # it has time limits of its own, several of them for an e-mail
LAST_WORDS_S = 2.0  # for what is still waiting when the proxy stops
EXTRA = "apprise is not installed: install the extra `alerts`, as in pip install 'tollbridge[alerts]'"

_COLOURS = {"info": "#2563eb", "warning": "#d97706", "error": "#dc2626", "over": "#16a34a"}
_APPRISE_TYPES = {"info": "info", "warning": "warning", "error": "failure", "over": "success"}


class Log(Protocol):
    def write(self, level: str, event: str, fields: dict[str, Any]) -> None: ...


class Undelivered(Exception):
    """`reason` is fit to be shown. `final`: another try would be refused, too."""

    def __init__(self, reason: str, *, final: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final
        self.retry_after_s = retry_after_s


Send = Callable[[Destination, Notice], Awaitable[None]]


@dataclass(slots=True, eq=False)
class _Channel:
    name: str
    destination: Destination
    queue: deque[Notice] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class Delivery:
    """`counts`: (channel, result) -> how many; a channel is `log`, or kind and place of a destination, such as `webhook-1`."""

    def __init__(self, *, log: Log, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep, send: Send | None = None) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self._log = log
        self._sleep = sleep
        self._post = Post()
        self._send = send or self._post.send
        self._channels: list[_Channel] = []

    def configure(self, destinations: Sequence[Destination]) -> None:
        """At the start and after a reload. What waits for a destination that stays is kept."""
        before = {(one.name, one.destination): one for one in self._channels}
        wanted = named_destinations(destinations)
        self._channels = [before[one] if one in before else _Channel(*one) for one in wanted]
        for gone in [channel for one, channel in before.items() if one not in wanted]:
            if gone.task is not None:
                gone.task.cancel()
            self._count(gone, "dropped", len(gone.queue))
            gone.queue.clear()
        if any(one.kind == "apprise" for one in destinations) and importlib.util.find_spec("apprise") is None:
            self._log.write("error", "alerts_undeliverable", {"reason": EXTRA})

    def tell(self, notice: Notice) -> None:
        """Into the log now, and into the queues. Needs a running loop where there are destinations."""
        alert = notice.alert
        said = {name: alert[name] for name in ("kind", "severity", "subject", "message", "value", "threshold")}
        level = alert["severity"] if notice.event == "raised" else "info"
        self._log.write(level, f"alert_{notice.event}", {"alert": alert["id"], **said})
        self.counts["log", "sent"] = self.counts.get(("log", "sent"), 0) + 1
        for channel in self._channels:
            if SEVERITIES.index(alert["severity"]) < SEVERITIES.index(channel.destination.least):
                continue
            if len(channel.queue) >= MAX_QUEUE:
                self._count(channel, "dropped")
                continue
            channel.queue.append(notice)
            if channel.task is None:
                channel.task = asyncio.get_running_loop().create_task(self._work(channel))

    async def aclose(self) -> None:
        """What waits has a moment to get out."""
        tasks = [channel.task for channel in self._channels if channel.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS_S)
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._post.close()

    async def _work(self, channel: _Channel) -> None:
        """Until the queue is empty. What is being sent is still in it, so that it counts for the bound."""
        try:
            while channel.queue:
                result = await self._deliver(channel, channel.queue[0])
                channel.queue.popleft()
                self._count(channel, result)
        finally:
            channel.task = None

    async def _deliver(self, channel: _Channel, notice: Notice) -> str:
        retries = iter(RETRIES_S)
        while True:
            try:
                await self._send(channel.destination, notice)
                return "sent"
            except Undelivered as undelivered:
                fault = undelivered
            except Exception as error:  # noqa: BLE001 - one message must not stop those behind it; what it says may hold the address
                fault = Undelivered(f"a fault of the proxy itself ({type(error).__name__})", final=True)
            wait_s = None if fault.final else next(retries, None)
            if wait_s is None:
                said = {"channel": channel.name, "alert": notice.alert["id"], "reason": fault.reason}
                self._log.write("error", "alert_not_delivered", said)
                return "failed"
            await self._sleep(max(wait_s, min(fault.retry_after_s or 0.0, MAX_RETRY_AFTER_S)))

    def _count(self, channel: _Channel, result: str, by: int = 1) -> None:
        if by:
            self.counts[channel.name, result] = self.counts.get((channel.name, result), 0) + by


def named_destinations(destinations: Iterable[Destination]) -> list[tuple[str, Destination]]:
    """By kind and place: what logs, metrics and `tollbridge alerts --test` call them."""
    return [(f"{one.kind}-{place}", one) for place, one in enumerate(destinations, 1)]


class Trial(NamedTuple):
    """`reason` None: it was taken."""

    channel: str
    reason: str | None


async def send_test(destinations: Sequence[Destination], *, wall: float, send: Send | None = None) -> list[Trial]:
    """One message to every destination, whatever its `least`, all at once and each tried once."""
    post = Post()
    notice = Notice(
        "test",
        {
            "id": "test",
            "kind": "test",
            "severity": "info",
            "subject": "tollbridge",
            "message": "This is a test: alerts of Tollbridge reach this place.",
            "value": None,
            "threshold": None,
            "raised": rfc3339(wall),
            "resolved": None,
            "acknowledged": None,
            "state": "open",
            "help": help_for("alerts-do-not-arrive"),
        },
    )

    async def one(name: str, destination: Destination) -> Trial:
        try:
            await (send or post.send)(destination, notice)
        except Undelivered as fault:
            return Trial(name, fault.reason)
        return Trial(name, None)

    try:
        return await asyncio.gather(*[one(name, destination) for name, destination in named_destinations(destinations)])
    finally:
        post.close()


# -- messages


def heading(notice: Notice) -> str:
    """`error: provider_down groq`."""
    alert = notice.alert
    first = alert["severity"] if notice.event == "raised" else notice.event
    return f"{first}: {alert['kind']} {alert['subject']}"


def json_body(notice: Notice, host: str) -> dict[str, Any]:
    """`{"event": "raised" | "resolved" | "test", "host", "text", "alert": …}`, the alert as `GET /api/v1/monitoring/alerts` shows it."""
    return {
        "event": notice.event,
        "host": host,
        "text": f"{heading(notice)}: {notice.alert['message']}",
        "alert": notice.alert,
    }


def slack_body(notice: Notice, host: str) -> dict[str, Any]:
    """For Slack's incoming webhooks and those that take the same. What could be a mention or a link is made plain."""
    alert = notice.alert
    return {
        "text": _plain(heading(notice)),
        "mrkdwn": False,
        "attachments": [
            {
                "color": _COLOURS[_mood(notice)],
                "text": _plain(alert["message"]),
                "fallback": _plain(alert["message"]),
                "footer": _plain(f"tollbridge on {host}"),
                "ts": int(datetime.fromisoformat(alert["resolved"] or alert["raised"]).timestamp()),
            }
        ],
    }


def _mood(notice: Notice) -> str:
    return "over" if notice.event == "resolved" else notice.alert["severity"]


def _plain(text: str) -> str:
    """https://api.slack.com/reference/surfaces/formatting#escaping"""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# -- ways


class Post:
    """Sends one notice to one destination. Raises Undelivered."""

    def __init__(self, *, host: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._host = host or socket.gethostname()
        self._timeout_s = timeout_s
        self._thread: ThreadPoolExecutor | None = None

    async def send(self, destination: Destination, notice: Notice) -> None:
        way, limit_s = (self._webhook, self._timeout_s) if destination.kind == "webhook" else (self._apprise, APPRISE_TIMEOUT_S)
        try:
            async with asyncio.timeout(limit_s):
                await way(destination, notice)
        except TimeoutError:
            raise Undelivered(f"no answer within {limit_s:g} s") from None

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _webhook(self, destination: Destination, notice: Notice) -> None:
        import httpx2  # takes longer to import than the server has to start, and most never raise an alert

        shape = slack_body if destination.shape == "slack" else json_body
        url = destination.url.reveal()
        try:
            async with (
                httpx2.AsyncClient(verify=_tls(url), trust_env=False, follow_redirects=False, timeout=self._timeout_s) as client,
                client.stream(
                    "POST",
                    url,
                    content=orjson.dumps(shape(notice, self._host)),
                    headers={"content-type": "application/json", "user-agent": "tollbridge"},
                ) as response,
            ):
                status, wait = response.status_code, response.headers.get("retry-after", "")
        except httpx2.TimeoutException:
            raise Undelivered(f"no answer within {self._timeout_s:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            # what it says may hold the address
            raise Undelivered(f"it cannot be reached ({type(error).__name__})") from None
        if not 200 <= status < 300:
            again = status in (408, 425, 429) or status >= 500
            retry_after_s = float(wait) if wait.isdecimal() and len(wait) < 10 else None
            raise Undelivered(f"it answered {status}", final=not again, retry_after_s=retry_after_s)

    async def _apprise(self, destination: Destination, notice: Notice) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="apprise")
        title = heading(notice)
        body = f"{notice.alert['message']}\n\ntollbridge on {self._host}"
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, _notify, destination.url.reveal(), title, body, _mood(notice))


def _tls(url: str) -> ssl.SSLContext:
    """One that trusts nobody for plain http, which has no use for it."""
    return client_context(None) if url.lower().startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _notify(url: str, title: str, body: str, mood: str) -> None:
    """In a thread: Apprise blocks."""
    try:
        import apprise  # an extra, and a large one
    except ImportError:
        raise Undelivered(EXTRA, final=True) from None
    redact = Redactor(secrets_of(url))
    with _listen_to_apprise() as said:
        try:
            sender = apprise.Apprise()
            known = sender.add(url)
            sent = known and sender.notify(title=title, body=body, notify_type=_APPRISE_TYPES[mood])
        except Exception as error:  # noqa: BLE001 - it has a hundred authors; what it says may hold the address
            raise Undelivered(f"Apprise failed ({type(error).__name__})") from None
    if not known:
        raise Undelivered(f"Apprise does not understand the address{_why(said, redact)}", final=True)
    if not sent:
        raise Undelivered(f"Apprise could not deliver it{_why(said, redact)}")


def secrets_of(url: str) -> list[str]:
    """An address, and every part of it that may be a token: Apprise names parts of it when it complains."""
    parts = [url]
    with suppress(ValueError):
        split = urlsplit(url)
        parts += [piece for piece in re.split(r"[/:@?&=,]+", "/".join(split[1:])) if piece]
    return [*parts, *map(unquote, parts)]


def _why(said: list[str], redact: Redactor) -> str:
    return f" ({one_line(redact(said[-1]), 200)})" if said else ""


class _listen_to_apprise(logging.Handler):  # noqa: N801 - it is used like a function
    """What Apprise complains of meanwhile. It writes nowhere else: its lines may hold parts of the address."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: list[str] = []
        self._logger = logging.getLogger("apprise")

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._said) < MAX_QUEUE:
            self._said.append(record.getMessage())

    def __enter__(self) -> list[str]:
        self._logger.propagate = False
        self._logger.handlers = [self]
        return self._said

    def __exit__(self, *_exception: object) -> None:
        self._logger.handlers = [logging.NullHandler()]  # without any, warnings would go to standard error
