"""The proxy as it really runs: on a port, in a thread of its own or as a process, with its drainer.

Two doors lead to one engine: the fast lane (`FastProtocol`), which `tollbridge serve` uses, and plain ASGI, which is what
`proxy.app:app` is under any other server.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import uvicorn

from proxy.app import _listen, create_app
from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.runtime import Runtime
from proxy.server.lifecycle import DrainingServer
from proxy.server.protocol import FastProtocol
from proxy.torture.upstream import Upstream
from tests import prices
from tests.e2e.client import Client, until

Door = Literal["fast", "asgi"]
ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0  # on a machine that has much else to do
SOON_S = 5.0
STOP_S = 30.0


class Proxy:
    """In a thread of this process. `runtime` is what runs; `client` asks it. `bare`: its folder is as it is, without price data."""

    def __init__(
        self, config: Path, *, door: Door = "fast", environ: Mapping[str, str] | None = None, bare: bool = False
    ) -> None:
        def read() -> Settings:
            settings = load(config, environ=environ or {})
            if not bare:
                prices.lay(settings.data_dir)
            return settings

        held: list[Runtime] = []
        application = create_app(read, on_runtime=held.append)
        started = threading.Event()
        options = uvicorn.Config(
            application,
            http=FastProtocol if door == "fast" else "httptools",
            ws="none",
            loop="uvloop",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
        self._server = DrainingServer(options, lambda: held[0].gateway if held else None, on_started=started.set)
        (self._listener,) = _listen("127.0.0.1", 0)
        self._thread = threading.Thread(target=self._run, name=f"proxy {door}", daemon=True)
        self._thread.start()
        self.port: int = self._listener.getsockname()[1]
        self.client = Client(self.port)
        until(lambda: started.is_set() or not self._thread.is_alive(), what="the start", seconds=START_S)
        assert started.is_set(), "the proxy did not start"
        self.runtime = held[0]
        until(lambda: self.runtime.gateway.services.prices.ready, what="the price data", seconds=START_S)

    @property
    def answered(self) -> int:
        """How many requests, whatever they were."""
        return self._server.server_state.total_requests

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])

    def stop(self) -> None:
        """More than once does no harm."""
        if self._thread.is_alive():
            self._server.handle_exit(signal.SIGINT, None)
        self._thread.join(SOON_S)
        if self._thread.is_alive():
            seen = self._what_runs()  # what ends at last is gone by then
            self._thread.join(STOP_S)
            assert not self._thread.is_alive(), f"the proxy did not stop: first {seen}, then {self._what_runs()}"

    def _what_runs(self) -> str:
        gateway = self.runtime.gateway
        keep = ("deadline", "_reading_since", "_in_body", "_lingering", "_turned_away", "running", "cycle", "pipeline")
        connections = [
            {name: getattr(one, name, None) for name in keep}
            | {"closing": one.transport.is_closing(), "unsent": one.transport.get_write_buffer_size(), "flow": vars(one.flow)}
            for one in cast(set[FastProtocol], self._server.server_state.connections)
        ]
        now = gateway.services.clock.monotonic()
        return (
            f"{now=} live={gateway.live} becoming={gateway.door.becoming} tasks={self._server.server_state.tasks} {connections=}\n"
            f"{_stacks(self._thread)}"
        )


def _stacks(thread: threading.Thread) -> str:
    """Where a thread is, and where each task is that any loop still has, down to what it waits for."""
    frame = sys._current_frames().get(thread.ident or 0)
    lines = traceback.format_stack(frame) if frame else ["it has ended\n"]
    for task in list(asyncio.tasks._all_tasks):  # type: ignore[attr-defined]  # a loop that is being closed cannot be asked
        if not task.done():
            lines.append(f"{task.get_name()}\n")
            awaited: Any = task.get_coro()
            while (inner := getattr(awaited, "cr_frame", None)) is not None:
                lines.append(f"  {inner.f_code.co_filename}:{inner.f_lineno} {inner.f_code.co_name}\n")
                awaited = awaited.cr_await
            lines.append(f"  {awaited!r}\n")
    return "".join(lines)


class Process:
    """`python -m proxy serve`: what it says on standard output and error goes to files beside the configuration."""

    def __init__(
        self, config: Path | None, directory: Path, *, environ: Mapping[str, str] | None = None, options: tuple[str, ...] = ()
    ) -> None:
        """Without `config` no option names one, and nothing is laid in its folder."""
        self.directory = directory
        if config is not None:
            prices.lay(config.parent / "data")
        named = () if config is None else ("--config", str(config))
        self._out = self.directory / "out.txt"
        self._errors = self.directory / "errors.txt"
        with self._out.open("wb") as out, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "serve", *named, "--port", "0", *options],
                cwd=self.directory,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **(environ or {})},
                stdout=out,
                stderr=errors,
            )
        self.port = 0

    def ready(self) -> Client:
        """A client, once the banner says where it listens."""

        def port() -> int | None:
            assert self.process.poll() is None, self.errors
            found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", self.output)
            return int(found[1]) if found else None

        self.port = until(port, what="the banner", seconds=START_S)
        return Client(self.port)

    @property
    def output(self) -> str:
        return self._out.read_text()

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = 20.0) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


def billed_calls(upstream: Upstream) -> int:
    """How often it was asked for an answer. Checks of its health come when they come."""
    return sum(count for name, count in upstream.requests.items() if not name.startswith("GET "))
