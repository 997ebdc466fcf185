"""What we lean on inside uvicorn is still there: docs/decisions/0006 lists it. A failure after an update says where to look."""

import asyncio
import inspect
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import Server, ServerState

from proxy.server.lifecycle import DrainingServer
from proxy.server.protocol import FastCycle, FastProtocol

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parents[2] / "docs/decisions/0006-leaning-on-uvicorn.md"
ATTRIBUTES = """parser transport flow connections tasks server client scheme url headers expect_100_continue cycle pipeline
    server_state app""".split()
CALLBACKS = "on_message_begin on_url on_header on_headers_complete on_body on_message_complete on_response_complete".split()
OF_A_CYCLE = "response_complete disconnected keep_alive message_event body more_body".split()
OF_THE_SERVER = "startup shutdown main_loop on_tick handle_exit should_exit force_exit started servers lifespan config".split()


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def sources(thing: object) -> str:
    return inspect.getsource(thing)  # type: ignore[arg-type]


async def application(scope: Any, receive: Any, send: Any) -> None: ...


@pytest.fixture
def protocol() -> HttpToolsProtocol:
    loop = asyncio.new_event_loop()
    try:
        made = HttpToolsProtocol(Config(application, lifespan="off", log_config=None), ServerState(), {}, loop)
        made.on_message_begin()
        return made
    finally:
        loop.close()


def test_the_protocol_is_made_with_the_arguments_that_we_pass_on() -> None:
    assert parameters(HttpToolsProtocol.__init__) == ["self", "config", "server_state", "app_state", "_loop"]
    assert parameters(FastProtocol.__init__) == parameters(HttpToolsProtocol.__init__)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_protocol_has_the_attributes_that_we_read(protocol: HttpToolsProtocol, name: str) -> None:
    assert hasattr(protocol, name)


def test_the_collections_are_of_the_kind_that_we_use(protocol: HttpToolsProtocol) -> None:
    assert isinstance(protocol.pipeline, deque)
    assert isinstance(protocol.connections, set)
    assert protocol.connections is protocol.server_state.connections
    assert isinstance(protocol.headers, list)
    assert protocol.server_state.default_headers == []
    assert protocol.server_state.total_requests == 0


@pytest.mark.parametrize("name", CALLBACKS)
def test_the_callbacks_take_what_ours_take(name: str) -> None:
    assert parameters(getattr(HttpToolsProtocol, name)) == parameters(getattr(FastProtocol, name))


def test_no_other_method_of_the_protocol_is_overridden_unawares() -> None:
    """A method that uvicorn adds under a name of ours would be overridden by it."""
    shared = {name for name in vars(FastProtocol) if callable(getattr(FastProtocol, name))} & set(vars(HttpToolsProtocol))
    of_a_connection = {"connection_made", "connection_lost", "data_received", "pause_writing", "resume_writing", "shutdown"}
    assert shared == {"__init__", *of_a_connection, *CALLBACKS}


def test_only_our_own_code_starts_a_cycle_of_ours() -> None:
    """uvicorn starts a cycle in `_start_asgi_task`, which its own callbacks call; ours are overridden and tell the two kinds apart."""
    assert parameters(HttpToolsProtocol._start_asgi_task) == ["self", "cycle", "app"]
    callers = [name for name, one in vars(HttpToolsProtocol).items() if callable(one) and "_start_asgi_task(" in sources(one)]
    assert sorted(callers) == ["_start_asgi_task", "on_headers_complete", "on_response_complete"]


def test_a_cycle_of_ours_has_all_that_uvicorn_touches_on_its_own() -> None:
    touched = set(re.findall(r"\bcycle\.(\w+)", sources(HttpToolsProtocol))) - {"run_asgi"}  # see above
    assert touched == set(OF_A_CYCLE)
    assert touched <= set(FastCycle.__slots__)


def test_the_words_for_the_wire_are_there() -> None:
    assert STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n"
    assert set(range(200, 600)) <= set(STATUS_LINE)
    assert {"write_paused", "drain", "pause_reading", "resume_reading"} <= {
        *vars(FlowControl),
        *re.findall(r"self\.(\w+) =", sources(FlowControl)),
    }
    assert [parameters(function) for function in (get_local_addr, get_remote_addr, is_ssl)] == [["transport"]] * 3


@pytest.mark.parametrize("name", OF_THE_SERVER)
def test_the_server_has_what_draining_uses(name: str) -> None:
    assert hasattr(Server, name) or re.search(rf"self\.{name}\b", sources(Server))


def test_the_server_calls_what_we_override() -> None:
    for name in ("startup", "shutdown", "main_loop", "handle_exit"):
        assert parameters(getattr(DrainingServer, name)) == parameters(getattr(Server, name))
        assert f"self.{name}" in sources(Server)
    assert parameters(Server.on_tick) == ["self", "counter"]
    assert "connection.shutdown()" in sources(Server.shutdown)


def test_the_public_door_is_open() -> None:
    assert Config(application, http=FastProtocol, lifespan="off", log_config=None).http is FastProtocol
    assert uvicorn.Server is Server


def test_the_page_lists_what_is_tested_here() -> None:
    words = set(re.findall(r"\w+", PAGE.read_text(encoding="utf-8")))
    assert {*ATTRIBUTES, *CALLBACKS, *OF_A_CYCLE, *OF_THE_SERVER} <= words
