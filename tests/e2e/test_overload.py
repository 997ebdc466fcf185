"""More than the proxy may or can take: requests, connections, callers who send ahead, callers who read nothing. Told in real sockets.

What must not happen within a time has ten seconds and more; what may be short is what is to be overrun.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.config.settings import PerAddress
from proxy.core.deadlines import NEVER
from proxy.core.garbage import thresholds
from proxy.core.turn import PIECES
from proxy.server import protocol
from proxy.server.doorbell import Doorbell
from proxy.server.overload import Governor
from proxy.torture.upstream import Upstream
from tests.e2e.client import WAIT_S, Answer, Client, OpenStream, chat_body, raw_exchange, until
from tests.e2e.conftest import Launch, Start, provider, write_config
from tests.e2e.running import ROOT, Proxy, billed_calls

pytestmark = pytest.mark.integration

MAY_RUN = 2
BODY = json.dumps(chat_body("smart")).encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
GOOD = POST % len(BODY) + BODY
ALIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
SHED = 'tollbridge_events_total{event="shed"}'
REFUSED = 'tollbridge_rejected_total{reason="overloaded"}'


def config(upstream: Upstream, **server: Any) -> dict[str, Any]:
    return {
        "server": server,
        "providers": {"fake": provider(upstream.url)},
        "chains": {"smart": ["fake/ok"], "held": ["fake/hold_after_content"], "early": ["fake/hold_before_head"]},
    }


@pytest.fixture(scope="module")
def fast(start: Start, upstream: Upstream) -> Proxy:
    return start(config(upstream))


@pytest.fixture(scope="module")
def asgi(start: Start, upstream: Upstream) -> Proxy:
    return start(config(upstream), door="asgi")


@pytest.fixture(params=["fast", "asgi"])
def proxy(request: pytest.FixtureRequest, fast: Proxy, asgi: Proxy) -> Proxy:
    return fast if request.param == "fast" else asgi


@contextlib.contextmanager
def with_limits(proxy: Proxy, **server: Any) -> Iterator[None]:
    """As if the file had been changed."""
    gateway = proxy.runtime.gateway
    before = gateway.settings
    gateway.configure(replace(before, server=replace(before.server, **server)))
    try:
        yield
    finally:
        gateway.configure(before)


@contextlib.contextmanager
def as_many_as_may(proxy: Proxy) -> Iterator[list[OpenStream]]:
    with with_limits(proxy, max_in_flight=MAY_RUN), contextlib.ExitStack() as stack:
        streams = [stack.enter_context(proxy.client.open("held")) for _ in range(MAY_RUN)]
        for stream in streams:
            stream.until_text("Hello")
        yield streams
    until(lambda: not proxy.runtime.gateway.live, what="the end of every request")


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=WAIT_S, source_address=(source, 0))


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer with a content-length; status 0 when the connection is closed instead."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        piece = _received(connection)
        if not piece:
            return 0, {}, seen
        seen += piece
    head, _, body = seen.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(lines[0].split(" ")[1]), headers, body


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


# -- requests


def test_one_more_than_may_run_is_refused_at_once_and_may_come_again(proxy: Proxy, upstream: Upstream) -> None:
    metrics = proxy.client.metrics()
    with as_many_as_may(proxy):
        before = billed_calls(upstream)
        answer = proxy.client.chat("smart")
        embedded = proxy.client.request("POST", "/v1/embeddings", {"model": "smart", "input": "x"})
        for refused in (answer, embedded):
            assert (refused.status, refused.error["code"], refused.error["type"]) == (503, "overloaded", "overloaded_error")
            assert refused.headers["retry-after"] == "1"
            assert refused.id
            assert "x-should-retry" not in refused.headers, "an SDK's own retry is just what is wanted"
        assert billed_calls(upstream) == before
        told = proxy.client.metrics()
        assert told[SHED] - metrics[SHED] == 2
        assert told[REFUSED] - metrics[REFUSED] == 2
        assert told["tollbridge_requests_room"] == MAY_RUN
    assert proxy.client.chat("smart").status == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/api/v1/requests", "/v1/models"])
def test_who_looks_after_the_proxy_is_always_served(proxy: Proxy, path: str) -> None:
    with as_many_as_may(proxy):
        assert proxy.client.get(path).status == 200


def in_a_long_turn(proxy: Proxy, act: Callable[[Doorbell], None]) -> None:
    """Runs it in one callback of the proxy's loop, as if there were much to do. The loop itself does nothing meanwhile."""
    done: Future[None] = Future()

    def turn() -> None:
        gateway = proxy.runtime.gateway
        gateway.line.pause(time.monotonic(), long=False)  # what began before this turn is no crowd in it
        bell = gateway.bell
        bell.looked(0.0, busy=True, late=False)
        try:
            act(bell)
        except BaseException as fault:  # noqa: BLE001 - told to the test, whose thread is another
            done.set_exception(fault)
        else:
            done.set_result(None)

    door = proxy.runtime.gateway.door  # which may have told somebody that the proxy lives whom the loop does not know yet
    until(lambda: not door._waiting and not door.becoming, what="everybody's connection")
    proxy.runtime._tasks[0].get_loop().call_soon_threadsafe(turn)
    done.result(4 * WAIT_S)


def test_a_turn_is_long_by_its_own_length_and_the_next_is_not(fast: Proxy) -> None:
    gateway = fast.runtime.gateway
    found: Future[list[bool]] = Future()

    def turn() -> None:
        gateway.bell.looked(NEVER, busy=False, late=False)  # the next look is far
        gateway.pause()
        seen = [gateway.in_a_long_turn()]
        until(gateway.in_a_long_turn, what="a long turn")
        loop.call_soon(lambda: found.set_result([*seen, gateway.in_a_long_turn()]))

    loop = fast.runtime._tasks[0].get_loop()
    loop.call_soon_threadsafe(turn)
    assert found.result(4 * WAIT_S) == [False, False]


def listen_until(bell: Doorbell, condition: Callable[[], bool], *, what: str) -> None:
    """What was sent may take a moment through the kernel."""

    def listened() -> bool:
        bell.listen()
        return condition()

    until(listened, what=what)


def answer_in_this_turn(bell: Doorbell, connection: socket.socket) -> int:
    listen_until(bell, lambda: bool(select.select([connection], [], [], 0.0)[0]), what="an answer")
    return read_answer(connection)[0]


def test_in_the_midst_of_a_long_turn_a_refusal_is_told(fast: Proxy) -> None:
    with as_many_as_may(fast), connect(fast.port) as known, connect(fast.port) as new:
        for connection, sent in ((known, GOOD), (new, ALIVE)):
            connection.sendall(sent)
            read_answer(connection)

        def act(bell: Doorbell) -> None:
            for connection in (known, new):
                connection.sendall(GOOD)
            assert [answer_in_this_turn(bell, connection) for connection in (known, new)] == [503, 503]

        in_a_long_turn(fast, act)
        known.sendall(ALIVE)
        assert read_answer(known)[0] == 200


def test_in_the_midst_of_a_long_turn_a_request_for_which_there_is_room_begins(fast: Proxy) -> None:
    with connect(fast.port) as connection:
        connection.sendall(ALIVE)
        read_answer(connection)
        live = fast.runtime.gateway.live
        begun: list[int] = []

        def act(bell: Doorbell) -> None:
            before = len(live)
            for piece in (GOOD[:100], GOOD[100:]):
                connection.sendall(piece)
                bell.listen()
            listen_until(bell, lambda: len(live) > before, what="the request's beginning")
            begun.append(len(live) - before)

        in_a_long_turn(fast, act)
        assert (begun, read_answer(connection)[0]) == ([1], 200)


def test_in_the_midst_of_a_long_turn_a_probe_that_knocks_is_told_that_the_proxy_lives(proxy: Proxy) -> None:
    with contextlib.ExitStack() as stack:
        probes: list[socket.socket] = []
        closing = ALIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")

        def act(bell: Doorbell) -> None:
            probes.extend(stack.enter_context(connect(proxy.port)) for _ in range(3))  # the loop does not take them in
            kept, closed, silent = probes
            kept.sendall(ALIVE)
            closed.sendall(closing)
            assert [answer_in_this_turn(bell, one) for one in (kept, closed)] == [200, 200]
            assert closed.recv(1) == b""
            silent.sendall(ALIVE)
            assert answer_in_this_turn(bell, silent) == 200

        in_a_long_turn(proxy, act)
        for one in (probes[0], probes[2]):
            one.sendall(GOOD)  # from then on they are connections like any other
            assert read_answer(one)[0] == 200


def test_in_the_midst_of_a_long_turn_a_fault_costs_the_caller_that_it_came_with_and_nobody_else(
    fast: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[bytes] = []

    def fail(_: protocol.FastProtocol, data: bytes) -> None:
        failed.append(data)
        raise RuntimeError("a fault of our own")

    with connect(fast.port) as unlucky, connect(fast.port) as other:
        for connection in (unlucky, other):
            connection.sendall(ALIVE)
            read_answer(connection)

        def act(bell: Doorbell) -> None:
            unlucky.sendall(ALIVE)
            with monkeypatch.context() as patch:
                patch.setattr(protocol.FastProtocol, "data_received", fail)
                listen_until(bell, lambda: bool(failed), what="the fault")
            other.sendall(ALIVE)
            assert answer_in_this_turn(bell, other) == 200

        in_a_long_turn(fast, act)
        assert read_answer(unlucky)[0] == 0


def test_what_callers_send_are_pieces_of_a_turn_and_signs_that_the_loop_does_not_hang(fast: Proxy) -> None:
    before = fast.runtime.gateway.turn.pauses
    with connect(fast.port) as connection:
        for _ in range(20 * PIECES):  # a turn that was too long, as on a machine with much else to do, counts from the start
            connection.sendall(ALIVE)
            assert read_answer(connection)[0] == 200
            if fast.runtime.gateway.turn.pauses >= before + 2:
                break
    pauses, ticks = fast.runtime.gateway.turn.pauses, fast.runtime.ticks
    assert pauses >= before + 2
    assert ticks is not None
    assert (fast.runtime.signs_of_life or 0) >= ticks + pauses


def test_the_connection_of_a_refused_request_stays(fast: Proxy) -> None:
    proxy = fast
    with as_many_as_may(proxy) as streams, connect(proxy.port) as connection:
        for _ in range(3):
            connection.sendall(GOOD)
            status, headers, _ = read_answer(connection)
            assert (status, "connection" in headers) == (503, False)
        streams[0].leave()
        until(lambda: len(proxy.runtime.gateway.live) < MAY_RUN, what="room")
        connection.sendall(GOOD)
        assert read_answer(connection)[0] == 200


def test_a_large_body_is_not_waited_for_when_it_will_be_refused(fast: Proxy) -> None:
    proxy = fast
    with as_many_as_may(proxy):
        answer = raw_exchange(proxy.port, POST % (protocol.LARGE_BODY_BYTES + 1))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"connection: close" in answer
    with connect(proxy.port) as connection:
        connection.sendall(POST % (protocol.LARGE_BODY_BYTES + 1))
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_who_comes_again_without_waiting_is_made_to_when_refusing_is_too_much(
    fast: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "RETRY_AFTER_S", 0.5)
    governor = fast.runtime.gateway.governor
    monkeypatch.setattr(Governor, "weigh", lambda *_: None)  # or it would see that nobody is refused

    def asked(connection: socket.socket) -> tuple[int, float]:
        began = time.monotonic()
        connection.sendall(GOOD)
        return read_answer(connection)[0], time.monotonic() - began

    with as_many_as_may(fast) as streams, connect(fast.port) as connection:
        assert [asked(connection)[0] for _ in range(3)] == [503] * 3
        governor.overwhelmed = True
        try:
            assert asked(connection)[0] == 503
            for _ in range(2):
                status, took_s = asked(connection)
                assert (status, took_s >= 0.3) == (503, True)
            with connect(fast.port) as other:
                assert asked(other)[0] == 503
        finally:
            governor.overwhelmed = False
        streams[0].leave()
        until(lambda: len(fast.runtime.gateway.live) < MAY_RUN, what="room")
        assert asked(connection)[0] == 200
    assert fast.client.get("/livez").status == 200


def test_a_known_callers_refusal_says_what_that_of_a_new_one_does(fast: Proxy) -> None:
    with as_many_as_may(fast), connect(fast.port) as connection:
        told = []
        for _ in range(3):
            connection.sendall(GOOD)
            told.append(read_answer(connection))
    ids = {headers.pop("x-request-id") for _, headers, _ in told}
    assert len(ids) == 3
    for _, headers, _ in told:
        headers.pop("date")
    assert told[0] == told[1] == told[2]


def test_requests_that_come_faster_than_they_can_be_begun_stand_in_line_and_are_served(fast: Proxy, upstream: Upstream) -> None:
    gateway = fast.runtime.gateway
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(connect(fast.port)) for _ in range(10)]
        for caller in callers:
            caller.sendall(ALIVE)
            assert read_answer(caller)[0] == 200
        before = billed_calls(upstream)
        seen: list[tuple[int, int]] = []

        def act(bell: Doorbell) -> None:
            gateway.line.begun += 2
            gateway.line.pause(time.monotonic(), long=True)
            for caller in callers:
                caller.sendall(GOOD)
            listen_until(bell, lambda: len(gateway.line) == len(callers), what="all of them in line")
            seen.append((len(gateway.live), billed_calls(upstream) - before))

        in_a_long_turn(fast, act)
        assert seen == [(0, 0)]
        assert [read_answer(caller)[0] for caller in callers] == [200] * len(callers)
    until(lambda: not gateway.line.formed and not len(gateway.line), what="the end of the line")


def test_who_stands_in_line_is_not_refused_any_more(fast: Proxy) -> None:
    gateway = fast.runtime.gateway
    with connect(fast.port) as caller:
        caller.sendall(ALIVE)
        assert read_answer(caller)[0] == 200

        def act(bell: Doorbell) -> None:
            gateway.line.begun += 2
            gateway.line.pause(time.monotonic(), long=True)
            caller.sendall(GOOD)
            listen_until(bell, lambda: len(gateway.line) == 1, what="him in line")
            gateway.governor.room = 0

        in_a_long_turn(fast, act)
        assert read_answer(caller)[0] == 200
        until(lambda: gateway.governor.room > 0, what="the next look")


def test_those_who_stand_in_line_count_as_running(fast: Proxy) -> None:
    gateway = fast.runtime.gateway
    with with_limits(fast, max_in_flight=MAY_RUN), contextlib.ExitStack() as stack:
        callers = [stack.enter_context(connect(fast.port)) for _ in range(MAY_RUN + 1)]
        for caller in callers:
            caller.sendall(ALIVE)
            assert read_answer(caller)[0] == 200

        def act(bell: Doorbell) -> None:
            gateway.line.begun += 2
            gateway.line.pause(time.monotonic(), long=True)
            for caller in callers[:-1]:
                caller.sendall(GOOD)
            listen_until(bell, lambda: len(gateway.line) == MAY_RUN, what="all of them in line")
            callers[-1].sendall(GOOD)
            assert answer_in_this_turn(bell, callers[-1]) == 503

        in_a_long_turn(fast, act)
        assert [read_answer(caller)[0] for caller in callers[:-1]] == [200] * MAY_RUN


def test_a_turn_that_does_not_end_is_brought_to_its_end(fast: Proxy) -> None:
    """While it lasts, who was read is not read again; in the next one he is."""
    gateway = fast.runtime.gateway
    with connect(fast.port) as caller:
        caller.sendall(ALIVE)
        assert read_answer(caller)[0] == 200
        states: list[bool] = []

        def act(bell: Doorbell) -> None:
            gateway.loop_watch.too_long_at = 0.0
            gateway.pause()
            caller.sendall(ALIVE)
            assert answer_in_this_turn(bell, caller) == 200
            (known,) = [one for one in gateway.door.callers if isinstance(one, protocol.FastProtocol) and _is(one, caller)]
            states.append(known.transport.is_reading())

        in_a_long_turn(fast, act)
        assert states == [False]
        until(lambda: not gateway.turn.too_long, what="the next turn")
        caller.sendall(GOOD)
        assert read_answer(caller)[0] == 200


def _is(one: protocol.FastProtocol, caller: socket.socket) -> bool:
    return one.client is not None and one.client[1] == caller.getsockname()[1]


def test_both_doors_say_in_the_same_way_that_they_live(fast: Proxy, asgi: Proxy) -> None:
    def told(answer: Answer) -> tuple[int, bytes, dict[str, str]]:
        headers = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id", "server")}
        assert re.fullmatch("[0-9A-Z]{26}", answer.id)
        return answer.status, answer.body, headers

    assert told(fast.client.get("/livez")) == told(asgi.client.get("/livez"))


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (ALIVE * 3, [200, 200, 200]),
        (ALIVE + GOOD + ALIVE, [200, 200, 200]),
        (ALIVE.replace(b"GET", b"POST"), [405]),
        (ALIVE.replace(b"livez", b"livez?x=1"), [200]),
        (b"GET /livez HTTP/1.1\r\n\r\n", [400]),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", [200]),
        (b"GET /livez HTTP/1.0\r\n\r\n", [200]),
    ],
    ids=["again and again", "between others", "another method", "a query", "no host", "a body", "http 1.0"],
)
def test_asking_whether_it_lives(fast: Proxy, sent: bytes, statuses: list[int]) -> None:
    answer = raw_exchange(fast.port, sent, half_close=False) if b"1.0" in sent else _until_idle(fast.port, sent, len(statuses))
    assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)] == statuses


def _until_idle(port: int, sent: bytes, answers: int) -> bytes:
    with connect(port) as connection:
        connection.sendall(sent)
        seen = b""
        while len(re.findall(rb"HTTP/1\.1 (\d+) ", seen)) < answers:
            piece = _received(connection)
            if not piece:
                break
            seen += piece
        return seen


# -- addresses


def ask(
    port: int, *, source: str = "127.0.0.1", host: str = "127.0.0.1", path: bytes = b"", more: bytes = b""
) -> tuple[int, bytes]:
    with connect(port, source) as connection:
        lines = b"Host: %b\r\nConnection: close\r\n%b" % (host.encode(), more)
        if path:
            connection.sendall(b"GET %b HTTP/1.1\r\n%b\r\n" % (path, lines))
        else:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(BODY), BODY))
        status, _, body = read_answer(connection)
        return status, body


def test_one_address_may_have_so_many_requests_under_way(proxy: Proxy) -> None:
    port = proxy.port
    limits = with_limits(proxy, per_ip=PerAddress(in_flight=1), trusted_proxies=("127.0.0.3",))
    with limits, proxy.client.open("held") as stream:
        stream.until_text("Hello")
        status, body = ask(port)
        assert (status, json.loads(body)["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "server.per_ip" in json.loads(body)["error"]["message"]
        assert ask(port, source="127.0.0.2")[0] == 200
        assert ask(port, path=b"/livez")[0] == 200
        # behind a proxy that is trusted, it is whom the proxy names; behind another one, it is the other one
        assert ask(port, source="127.0.0.3", more=b"X-Forwarded-For: 192.0.2.7\r\n")[0] == 200
        assert ask(port, source="127.0.0.3", more=b"X-Forwarded-For: 192.0.2.7, 127.0.0.1\r\n")[0] == 429
        assert ask(port, more=b"X-Forwarded-For: 192.0.2.7\r\n")[0] == 429
        stream.leave()
        until(lambda: ask(port)[0] == 200, what="the place of the one who left")


def test_a_host_that_is_not_ours(proxy: Proxy) -> None:
    port = proxy.port
    with with_limits(proxy, allowed_hosts=frozenset(("llm.example.com", "127.0.0.1"))):
        for path in (b"", b"/v1/models", b"/metrics", b"/nowhere"):
            status, body = ask(port, host="rebound.example", path=path)
            assert (status, json.loads(body)["error"]["code"]) == (403, "forbidden"), path
        for path in (b"/livez", b"/readyz"):
            assert ask(port, host="10.1.2.3:8080", path=path)[0] == 200
        assert ask(port, host="LLM.example.com:443")[0] == 200


def test_one_address_may_have_so_many_connections(fast: Proxy) -> None:
    with with_limits(fast, per_ip=PerAddress(connections=3)), contextlib.ExitStack() as stack:
        kept = [stack.enter_context(connect(fast.port, "127.0.0.5")) for _ in range(3)]
        for connection in kept:
            connection.sendall(ALIVE)
            assert read_answer(connection)[0] == 200
        with connect(fast.port, "127.0.0.5") as fourth:
            assert read_answer(fourth)[0] == 429
        assert ask(fast.port, source="127.0.0.2")[0] == 200
        kept[0].close()
        until(lambda: ask(fast.port, source="127.0.0.5")[0] == 200, what="the place of the one who left")


# -- connections


def test_at_the_cap_connections_wait_outside_and_nothing_spins(fast: Proxy) -> None:
    door = fast.runtime.gateway.door
    usual = door.cap
    before = fast.client.metrics()['tollbridge_events_total{event="accept_paused"}']
    with contextlib.ExitStack() as stack:
        inside = stack.enter_context(connect(fast.port))
        door.cap = 5
        try:
            outside = [stack.enter_context(connect(fast.port)) for _ in range(20)]
            until(lambda: door.shut, what="the shut door")
            inside.sendall(ALIVE)
            assert read_answer(inside)[0] == 200, "who is in is served"
            clock = time.pthread_getcpuclockid(cast(int, fast._thread.ident))
            began, spent = time.monotonic(), time.clock_gettime(clock)
            time.sleep(0.3)
            assert time.clock_gettime(clock) - spent < 0.5 * (time.monotonic() - began)
            assert door.connections <= 8
            outside[-1].sendall(ALIVE)
            for connection in outside[:-1]:
                connection.close()
            assert read_answer(outside[-1])[0] == 200, "it was in the kernel's queue"
        finally:
            door.cap = usual
    until(lambda: not door.shut, what="the open door")
    told = fast.client.metrics()
    assert told['tollbridge_events_total{event="accept_paused"}'] >= before + 1
    assert told["tollbridge_connections_limit"] == usual


def test_the_collector_waits_longer_while_many_are_connected(fast: Proxy) -> None:
    """All of them are alive: it would walk over them for nothing, while nobody is answered."""
    many, _, _ = thresholds(20)
    assert gc.get_threshold()[0] < many
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(fast.port))
        until(lambda: gc.get_threshold()[0] >= many, what="a collector that waits longer")
    until(lambda: gc.get_threshold()[0] < many, what="one that waits no longer, with nobody there")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
sys.argv = ["tollbridge", *sys.argv[1:]]
from proxy.cli import main
main()
"""


def test_few_file_descriptors(tmp_path: Path, upstream: Upstream) -> None:
    """The process as it is started, where the system allows it 200 files: there are always some left for what it needs itself."""
    path = write_config(tmp_path, config(upstream))
    with subprocess.Popen(
        [sys.executable, "-c", LIMITED, "serve", "--config", str(path), "--port", "0"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            _use_up(process)
        finally:
            process.kill()


def _use_up(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    port = next(int(found[1]) for line in process.stdout if (found := re.search(r"http://127\.0\.0\.1:(\d+)/v1", line)))
    with contextlib.ExitStack() as stack:
        inside = stack.enter_context(connect(port))
        for _ in range(300):
            stack.enter_context(connect(port))
        until(lambda: open_files(process.pid) >= 136, what="as many connections as may be")
        inside.sendall(GOOD)
        assert read_answer(inside)[0] == 200, "a connection to the provider could still be opened"
        assert open_files(process.pid) <= 200 - 30
    assert Client(port).chat("smart").status == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) == 0


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


# -- callers who do not behave


def test_who_sent_ahead_and_hangs_up_is_noticed_while_the_first_is_answered(fast: Proxy, upstream: Upstream) -> None:
    body = json.dumps(chat_body("early")).encode()
    seen, left = upstream.requests["hold_before_head"], len(upstream.hung_up_at["hold_before_head"])
    with connect(fast.port) as connection:
        connection.sendall((POST % len(body) + body) * 3)
        until(lambda: upstream.requests["hold_before_head"] > seen, what="the request upstream")
    until(lambda: len(upstream.hung_up_at["hold_before_head"]) > left, what="the hang-up upstream")
    until(lambda: not fast.runtime.gateway.live, what="the end of every request")
    assert upstream.requests["hold_before_head"] == seen + 1, "what was sent ahead is not begun any more"


def test_much_that_is_sent_ahead_waits_outside(fast: Proxy, upstream: Upstream) -> None:
    large = b" " * protocol.MAX_AHEAD_BYTES
    upstream.aliases["ahead"] = "hold_after_content"
    with connect(fast.port) as connection:
        held = json.dumps(chat_body("fake/ahead", stream=True)).encode()
        connection.sendall(POST % len(held) + held)
        assert b"200 OK" in connection.recv(65536)
        sent = 0
        connection.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            for _ in range(200):
                connection.sendall(POST % len(large) + large)
                sent += len(large)
        assert sent < 200 * len(large), "the kernel's buffers are full, and nothing else is"
    upstream.release("ahead")
    until(lambda: not fast.runtime.gateway.live, what="the end of every request")


def test_an_answer_that_nobody_takes_is_given_up(fast: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the engine's: what an admin asks for. A description of some hundred kilobytes, as often as may be sent ahead."""
    monkeypatch.setattr(protocol, "WRITE_STALL_S", 0.3)
    slow_reader = 'tollbridge_events_total{event="slow_reader"}'
    before = fast.client.metrics()[slow_reader]
    fast.runtime.gateway.door._listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", fast.port))
        connection.sendall(b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * protocol.MAX_PIPELINED)
        until(lambda: fast.client.metrics()[slow_reader] > before, what="the end of its patience")
        until(lambda: fast.client.metrics()["tollbridge_connections"] <= 2, what="the connection's end")


def test_honest_callers_among_many_who_dawdle(fast: Proxy) -> None:
    """Half of a head, or of a body: each is told that its time is over, which is brought about by hand."""
    with contextlib.ExitStack() as stack:
        dawdlers = [stack.enter_context(connect(fast.port)) for _ in range(150)]
        for n, connection in enumerate(dawdlers):
            connection.sendall(GOOD[: -5 if n % 3 == 0 else 20])
        for _ in range(10):
            assert fast.client.chat("smart").status == 200
        # one connection is taken in after the other: by now all of them are
        for waiting in list(cast(set[protocol.FastProtocol], fast.runtime.gateway.door._connections)):
            waiting.deadline = 0.0
        for connection in dawdlers:
            status, headers, _ = read_answer(connection)
            assert (status, headers["connection"]) == (408, "close")
    until(lambda: not fast.runtime.gateway.live, what="the end of every request")


# -- stopping under load


def test_a_stop_under_load_lets_every_stream_finish(launch: Launch, upstream: Upstream) -> None:
    upstream.aliases["many"] = "hold_after_content"
    process = launch(config(upstream, drain={"delay": "0s", "timeout": "30s"}))
    client = process.ready()
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(client.open("fake/many")) for _ in range(40)]
        seen = [stream.until_text("Hello") for stream in streams]
        process.signal(signal.SIGTERM)
        upstream.release("many")
        for begun, stream in zip(seen, streams, strict=True):
            answer = stream.rest()
            assert answer.whole
            assert (begun + answer.body).endswith(b"data: [DONE]\n\n")
    assert process.ended() == 0
