"""The ASGI application with every route, and `serve`, which runs it with the fast lane in front.

`proxy.app:app` runs under any ASGI server that supports the lifespan's state; its configuration is the file that
`TOLLBRIDGE_CONFIG` names, else `providers.yaml`, else the demo provider alone.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from proxy.accounting.journal import JournalError
from proxy.config.check import exposure_fault
from proxy.config.faults import ConfigError
from proxy.config.load import Overrides, load
from proxy.config.location import config_path
from proxy.config.settings import Settings
from proxy.core.version import VERSION
from proxy.runtime import Runtime
from proxy.server.admin import ADMIN
from proxy.server.banner import banner
from proxy.server.dashboard import DASHBOARD
from proxy.server.endpoints import COMPLETIONS, EMBEDDINGS, FALLBACK, MODELS, PROBES, routes
from proxy.server.lifecycle import DrainingServer
from proxy.server.monitoring import MONITORING
from proxy.server.openapi import OPENAPI
from proxy.server.protocol import FastProtocol

ROUTES = [*COMPLETIONS, *EMBEDDINGS, *MODELS, *PROBES, *ADMIN, *MONITORING, *OPENAPI, *DASHBOARD, FALLBACK]
BACKLOG = 2048


def create_app(read: Callable[[], Settings], *, on_runtime: Callable[[Runtime], None] = lambda runtime: None) -> Starlette:
    """`read` loads the configuration: when the application starts, and again on every reload."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        runtime = Runtime(read(), reload=read)
        await runtime.start()
        on_runtime(runtime)
        try:
            yield {"gateway": runtime.gateway}
        finally:
            await runtime.stop()

    return Starlette(routes=routes(ROUTES), lifespan=lifespan)


def _from_environment() -> Settings:
    return load(config_path(os.environ), environ=os.environ)


app = create_app(_from_environment)


def serve(
    *,
    config: Path | None,
    env_file: Path | None,
    host: str | None,
    port: int | None,
    workers: int,
    data_dir: Path | None,
    log_level: str | None,
    began: float,
) -> int:
    """Runs until told to stop. Returns the exit code: 0 after a drained stop, 1 when it could not start.

    Without `config` there is only the demo provider. `began`: when, by the monotonic clock, the program did.
    """
    if workers != 1:
        return _refuse("--workers: one process is what this release serves with; leave the option out")

    def read() -> Settings:
        overrides: Overrides = {"host": host, "port": port, "data_dir": data_dir, "log_level": log_level}
        return load(config, environ=os.environ, env_file=env_file, overrides=overrides)

    try:
        settings = read()
    except ConfigError as error:
        return _refuse(*map(str, error.faults))
    fault = exposure_fault(settings)
    if fault is not None:
        return _refuse(fault)
    try:
        listener = _listen(settings.server.host, settings.server.port)
    except OSError as error:
        where = f"{settings.server.host}:{settings.server.port}"
        return _refuse(f"cannot listen on {where}: {error.strerror}. Another program may be using it: try --port")
    _raise_file_limit()
    held: list[Runtime] = []
    first = [settings]
    application = create_app(lambda: first.pop() if first else read(), on_runtime=held.append)
    server_config = uvicorn.Config(
        application,
        http=FastProtocol,
        ws="none",
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
    )

    def ready() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, held[0].hang_up)
        bound_host, bound_port = listener.getsockname()[:2]
        started_ms = process_age_s(otherwise=time.monotonic() - began) * 1000
        sys.stdout.write(banner(settings, version=VERSION, host=bound_host, port=bound_port, started_ms=started_ms))
        sys.stdout.flush()

    server = DrainingServer(server_config, lambda: held[0].gateway if held else None, on_started=ready)
    try:
        server.run(sockets=[listener])
    except JournalError as error:
        return _refuse(str(error))
    except SystemExit:
        return 1
    return 0


def process_age_s(*, otherwise: float) -> float:
    """Since the kernel started this process, the interpreter's own start included. `otherwise`: where that cannot be told.

    https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: field 22, in clock ticks since boot; the name before it may hold spaces.
    """
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return otherwise


def _listen(host: str, port: int) -> socket.socket:
    family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind, number)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _refuse(*lines: str) -> int:
    for line in lines:
        sys.stderr.write(line + "\n")
    return 1
