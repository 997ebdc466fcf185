"""How alerts get out: what is sent, what is tried again, what is given up, and that nothing waits for it or tells an address."""

import asyncio
import builtins
import logging
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from proxy.config.settings import Destination
from proxy.core.target import Secret
from proxy.monitoring.alerts import Notice
from proxy.monitoring.delivery import (
    EXTRA,
    MAX_QUEUE,
    RETRIES_S,
    Delivery,
    Post,
    Trial,
    Undelivered,
    secrets_of,
    send_test,
    slack_body,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

TOKEN = "T0FAKE9/B0FAKE8/fakefakefakefake"
WALL = 1_800_000_000.0


def notice(event: str = "raised", **rest: Any) -> Notice:
    alert = {
        "id": "01ALERT",
        "kind": "provider_down",
        "severity": "error",
        "subject": "groq",
        "message": "groq is down: <!channel> & co.",
        "value": None,
        "threshold": None,
        "raised": "2026-11-21T14:30:00.000Z",
        "resolved": None,
        "acknowledged": None,
        "state": "open",
    }
    return Notice(event, alert | rest)


def to(url: str = "http://example.invalid/hook", **rest: Any) -> Destination:
    return Destination(rest.pop("kind", "webhook"), Secret(url), **rest)


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        self.lines.append((level, event, fields))

    def events(self) -> list[tuple[str, str]]:
        return [(level, event) for level, event, _ in self.lines]


class Script:
    """A sender that does as told: an answer for each call, the last one for ever. An Event is waited for."""

    def __init__(self, *answers: Exception | asyncio.Event | None) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, str]] = []

    async def __call__(self, destination: Destination, sent: Notice) -> None:
        self.sent.append((destination.url.reveal(), sent.alert["id"]))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, asyncio.Event):
            await answer.wait()
        elif answer is not None:
            raise answer


class Desk:
    def __init__(self, *destinations: Destination, send: Callable[[Destination, Notice], Awaitable[None]]) -> None:
        self.log = Log()
        self.slept: list[float] = []
        self.delivery = Delivery(log=self.log, sleep=self.sleep, send=send)
        self.delivery.configure(destinations)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def done(self) -> dict[tuple[str, str], int]:
        """What was counted once every queue is empty, without the log's."""
        while tasks := [channel.task for channel in self.delivery._channels if channel.task is not None]:
            await asyncio.wait(tasks)
        return {key: count for key, count in self.delivery.counts.items() if key[0] != "log"}


# -- queues and tries


async def test_every_step_is_logged_at_its_severity_and_goes_to_every_destination() -> None:
    script = Script(None)
    desk = Desk(to("http://a"), to("http://b", kind="webhook"), send=script)
    for one in (notice(), notice(severity="warning"), notice("resolved", resolved="2026-11-21T14:31:00.000Z")):
        desk.delivery.tell(one)
    assert await desk.done() == {("webhook-1", "sent"): 3, ("webhook-2", "sent"): 3}
    assert desk.log.events() == [("error", "alert_raised"), ("warning", "alert_raised"), ("info", "alert_resolved")]
    assert desk.log.lines[0][2]["message"] == "groq is down: <!channel> & co."
    assert desk.delivery.counts["log", "sent"] == 3


@pytest.mark.parametrize(
    ("least", "sent"), [("info", ["info", "warning", "error"]), ("warning", ["warning", "error"]), ("error", ["error"])]
)
async def test_what_is_less_than_a_destination_wants_is_not_sent_there(least: Any, sent: list[str]) -> None:
    script = Script(None)
    desk = Desk(to(least=least), send=script)
    for severity in ("info", "warning", "error"):
        desk.delivery.tell(notice(id=severity, severity=severity))
    await desk.done()
    assert [alert for _, alert in script.sent] == sent
    assert len(desk.log.lines) == 3


async def test_what_is_not_taken_is_tried_again_after_ever_longer_waits_and_then_given_up() -> None:
    desk = Desk(to(), send=Script(Undelivered("it answered 503")))
    desk.delivery.tell(notice())
    assert await desk.done() == {("webhook-1", "failed"): 1}
    assert desk.slept == list(RETRIES_S)
    assert desk.log.lines[-1] == (
        "error",
        "alert_not_delivered",
        {"channel": "webhook-1", "alert": "01ALERT", "reason": "it answered 503"},
    )


async def test_what_is_taken_at_the_third_try_is_sent_and_those_behind_it_keep_their_order() -> None:
    script = Script(Undelivered("no"), Undelivered("no"), None)
    desk = Desk(to(), send=script)
    desk.delivery.tell(notice(id="first"))
    desk.delivery.tell(notice(id="second"))
    assert await desk.done() == {("webhook-1", "sent"): 2}
    assert [alert for _, alert in script.sent] == ["first", "first", "first", "second"]
    assert desk.slept == [1.0, 5.0]


async def test_what_is_refused_for_good_is_not_tried_again() -> None:
    desk = Desk(to(), send=Script(Undelivered("it answered 404", final=True), None))
    desk.delivery.tell(notice())
    desk.delivery.tell(notice())
    assert await desk.done() == {("webhook-1", "failed"): 1, ("webhook-1", "sent"): 1}
    assert desk.slept == []


@pytest.mark.parametrize(("asked_s", "waited_s"), [(0.0, 1.0), (30.0, 30.0), (1e9, 300.0)])
async def test_a_wait_that_is_asked_for_is_kept_within_reason(asked_s: float, waited_s: float) -> None:
    desk = Desk(to(), send=Script(Undelivered("it answered 429", retry_after_s=asked_s), None))
    desk.delivery.tell(notice())
    assert await desk.done() == {("webhook-1", "sent"): 1}
    assert desk.slept == [waited_s]


async def test_a_fault_of_our_own_costs_one_message_and_tells_no_address() -> None:
    desk = Desk(to(), send=Script(ValueError(f"http://x/{TOKEN}"), None))
    desk.delivery.tell(notice())
    desk.delivery.tell(notice())
    assert await desk.done() == {("webhook-1", "failed"): 1, ("webhook-1", "sent"): 1}
    assert TOKEN not in repr(desk.log.lines)


async def test_a_destination_that_takes_nothing_has_a_bounded_queue_and_does_not_hold_up_the_others() -> None:
    stuck = asyncio.Event()
    free: list[str] = []

    async def send(destination: Destination, sent: Notice) -> None:
        if destination.url.reveal() == "http://stuck":
            await stuck.wait()
        else:
            free.append(sent.alert["id"])

    desk = Desk(to("http://stuck"), to("http://free"), send=send)
    for n in range(MAX_QUEUE + 1):
        desk.delivery.tell(notice(id=str(n)))
        await asyncio.sleep(0)
    assert desk.delivery.counts["webhook-1", "dropped"] == 1
    assert len(free) >= MAX_QUEUE
    stuck.set()
    counts = await desk.done()
    assert (counts["webhook-1", "sent"], counts["webhook-2", "sent"]) == (MAX_QUEUE, MAX_QUEUE + 1)


async def test_telling_takes_no_time() -> None:
    never = asyncio.Event()
    desk = Desk(to(), send=Script(never))
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(1000):
        desk.delivery.tell(notice())
    assert loop.time() - began < 10
    never.set()
    await desk.done()


async def test_after_a_reload_what_waits_for_a_destination_that_stays_is_kept() -> None:
    never = asyncio.Event()
    script = Script(never)
    stays, goes = to("http://stays"), to("http://goes")
    desk = Desk(stays, goes, send=script)
    desk.delivery.tell(notice())
    await asyncio.sleep(0)
    desk.delivery.configure([stays, to("http://new")])
    never.set()
    assert await desk.done() == {("webhook-1", "sent"): 1, ("webhook-2", "dropped"): 1}
    desk.delivery.tell(notice(id="later"))
    await desk.done()
    assert [url for url, alert in script.sent if alert == "later"] == ["http://stays", "http://new"]


async def test_at_a_stop_what_can_get_out_does_and_what_cannot_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.monitoring.delivery.LAST_WORDS_S", 0.05)

    async def send(destination: Destination, _: Notice) -> None:
        if destination.url.reveal() == "http://stuck":
            await asyncio.Event().wait()

    desk = Desk(to("http://stuck"), to("http://free"), send=send)
    desk.delivery.tell(notice())
    await desk.delivery.aclose()
    assert await desk.done() == {("webhook-2", "sent"): 1}


# -- webhooks, over a real socket


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    made = Post(host="gateway-1", timeout_s=5.0)
    yield made
    made.close()


def received(server: HTTPServer) -> list[tuple[Request, Any]]:
    return [(request, orjson.loads(request.get_data())) for request, _ in server.log]


async def test_a_webhook_is_sent_the_alert_as_json(httpserver: HTTPServer, post: Post) -> None:
    httpserver.expect_request("/hook", method="POST").respond_with_data("thanks")
    await post.send(to(httpserver.url_for("/hook")), notice())
    ((request, body),) = received(httpserver)
    assert request.headers["content-type"] == "application/json"
    assert body == {
        "event": "raised",
        "host": "gateway-1",
        "text": "error: provider_down groq: groq is down: <!channel> & co.",
        "alert": notice().alert,
    }


async def test_slack_is_sent_its_own_shape_and_no_mention_gets_through(httpserver: HTTPServer, post: Post) -> None:
    httpserver.expect_request("/hook").respond_with_data("ok")
    await post.send(to(httpserver.url_for("/hook"), shape="slack"), notice())
    ((_, body),) = received(httpserver)
    (attachment,) = body["attachments"]
    assert body["text"] == "error: provider_down groq"
    assert attachment["text"] == "groq is down: &lt;!channel&gt; &amp; co."
    assert (attachment["color"], attachment["ts"]) == ("#dc2626", 1_795_271_400)


@pytest.mark.parametrize(
    ("event", "severity", "heading", "colour"),
    [
        ("raised", "info", "info: provider_down groq", "#2563eb"),
        ("raised", "warning", "warning: provider_down groq", "#d97706"),
        ("resolved", "error", "resolved: provider_down groq", "#16a34a"),
    ],
)
def test_what_is_over_is_told_in_green(event: str, severity: str, heading: str, colour: str) -> None:
    body = slack_body(notice(event, severity=severity), "gateway-1")
    assert (body["text"], body["attachments"][0]["color"]) == (heading, colour)


@pytest.mark.parametrize(
    ("status", "final"),
    [
        (200, None),
        (204, None),
        (301, True),
        (302, True),
        (400, True),
        (403, True),
        (404, True),
        (408, False),
        (429, False),
        (500, False),
        (503, False),
    ],
)
async def test_what_a_webhook_answers_decides(httpserver: HTTPServer, post: Post, status: int, final: bool | None) -> None:
    elsewhere = httpserver.url_for("/elsewhere")
    httpserver.expect_request("/hook").respond_with_response(Response(b"", status, {"location": elsewhere, "retry-after": "7"}))
    if final is None:
        await post.send(to(httpserver.url_for("/hook")), notice())
        return
    with pytest.raises(Undelivered) as fault:
        await post.send(to(httpserver.url_for("/hook")), notice())
    assert (fault.value.reason, fault.value.final, fault.value.retry_after_s) == (f"it answered {status}", final, 7.0)
    assert [request.path for request, _ in received(httpserver)] == ["/hook"]  # a redirect is not followed


async def test_a_webhook_that_cannot_be_reached_is_named_by_nothing_but_the_cause(post: Post) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Undelivered) as fault:
        await post.send(to(f"http://127.0.0.1:{port}/services/{TOKEN}"), notice())
    assert fault.value.reason == "it cannot be reached (ConnectError)"
    assert not fault.value.final
    assert fault.value.__cause__ is None


async def test_a_webhook_that_does_not_answer_is_waited_for_only_so_long() -> None:
    post = Post(timeout_s=0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(Undelivered, match=r"no answer within 0\.1 s"):
            await post.send(to(f"http://127.0.0.1:{silent.getsockname()[1]}/"), notice())


async def test_delivery_by_default_goes_over_the_network(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/hook").respond_with_data("ok")
    log = Log()
    delivery = Delivery(log=log)
    delivery.configure([to(httpserver.url_for("/hook"))])
    delivery.tell(notice())
    await delivery.aclose()
    assert delivery.counts == {("log", "sent"): 1, ("webhook-1", "sent"): 1}


# -- apprise, with the real library where it is there

# it imports what Python is about to drop
needs_apprise = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


def apprise_url(server: HTTPServer, path: str = "/notify") -> str:
    return f"json://someone:hunter2-hunter2@{server.host}:{server.port}{path}/?overflow=truncate"


@needs_apprise
async def test_apprise_is_given_title_body_and_type(httpserver: HTTPServer, post: Post) -> None:
    pytest.importorskip("apprise", reason="the extra `alerts` is not installed")
    httpserver.expect_request("/notify/").respond_with_data("ok")
    await post.send(to(apprise_url(httpserver), kind="apprise"), notice())
    ((_, body),) = received(httpserver)
    assert (body["title"], body["type"]) == ("error: provider_down groq", "failure")
    assert body["message"] == "groq is down: <!channel> & co.\n\ntollbridge on gateway-1"


@needs_apprise
async def test_what_apprise_says_holds_nothing_of_the_address(
    httpserver: HTTPServer, post: Post, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("apprise", reason="the extra `alerts` is not installed")
    caplog.set_level(logging.DEBUG)
    httpserver.expect_request("/notify/").respond_with_data("no", status=500)
    with pytest.raises(Undelivered, match="Apprise could not deliver it") as fault:
        await post.send(to(apprise_url(httpserver), kind="apprise"), notice())
    assert not fault.value.final
    with pytest.raises(Undelivered, match="Apprise does not understand the address") as odd:
        await post.send(to("nowhere://hunter2-hunter2", kind="apprise"), notice())
    assert odd.value.final
    output = capfd.readouterr()
    told = fault.value.reason + odd.value.reason + output.out + output.err
    assert "hunter2" not in told
    assert "hunter2" not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("apprise"))


async def test_a_fault_inside_apprise_is_no_fault_of_ours(monkeypatch: pytest.MonkeyPatch, post: Post) -> None:
    class Apprise:
        def add(self, url: str) -> bool:
            raise KeyError(url)

    monkeypatch.setitem(sys.modules, "apprise", SimpleNamespace(Apprise=Apprise))
    with pytest.raises(Undelivered, match=r"^Apprise failed \(KeyError\)$"):
        await post.send(to("mailto://hunter2", kind="apprise"), notice())


async def test_without_the_extra_its_absence_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch, post: Post) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "apprise":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Undelivered) as fault:
        await post.send(to("mailto://x", kind="apprise"), notice())
    assert (fault.value.reason, fault.value.final) == (EXTRA, True)


async def test_a_configuration_that_needs_the_extra_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    desk = Desk(to("mailto://x", kind="apprise"), send=Script(None))
    assert desk.log.lines == [("error", "alerts_undeliverable", {"reason": EXTRA})]


def test_every_part_of_an_address_that_may_be_a_token_is_a_secret() -> None:
    found = secrets_of("slack://botname@TokenAAAA/TokenBBBB/TokenCCCC/?to=%23general%2Froom")
    assert {"botname", "TokenAAAA", "TokenBBBB", "TokenCCCC", "%23general%2Froom", "#general/room"} <= set(found)


# -- the test message


async def test_a_test_message_goes_to_every_destination_whatever_its_least(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/a").respond_with_data("ok")
    httpserver.expect_request("/b").respond_with_data("no", status=403)
    destinations: Sequence[Destination] = [
        to(httpserver.url_for("/a"), least="error"),
        to(httpserver.url_for("/b"), shape="slack"),
    ]
    found = await send_test(destinations, wall=WALL)
    assert found == [Trial("webhook-1", None), Trial("webhook-2", "it answered 403")]
    bodies = {request.path: body for request, body in received(httpserver)}
    assert bodies["/a"]["event"] == "test"
    assert bodies["/a"]["alert"]["raised"] == "2027-01-15T08:00:00.000Z"
    assert bodies["/b"]["text"] == "test: test tollbridge"


async def test_with_no_destination_there_is_nothing_to_test() -> None:
    assert await send_test([], wall=WALL) == []
