"""The ASGI application with every route, and `serve`, which runs it with the fast lane in front.

`proxy.app:app` runs under any ASGI server that supports the lifespan's state; its configuration is the file that
`TOLLBRIDGE_CONFIG` names, else `providers.yaml`, else the demo provider alone.
"""

from __future__ import annotations

import asyncio
import errno
import faulthandler
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
from starlette.types import ASGIApp

from proxy.accounting.journal import JournalError
from proxy.accounting.spending import needs_sums
from proxy.config import whereabouts
from proxy.config.check import exposure_fault
from proxy.config.faults import ConfigError
from proxy.config.key_store import KeysBroken
from proxy.config.load import Overrides, load
from proxy.config.location import config_path
from proxy.config.settings import Settings
from proxy.core.version import VERSION
from proxy.engine.formats import load_formats
from proxy.launch import let_go_of_output
from proxy.runtime import Runtime
from proxy.server.admin import ADMIN
from proxy.server.banner import banner
from proxy.server.cache import CACHE
from proxy.server.dashboard import DASHBOARD
from proxy.server.door import BACKLOG, UNSENT_BYTES
from proxy.server.endpoints import COMPLETIONS, EMBEDDINGS, FALLBACK, MODELS, PROBES, routes
from proxy.server.keys import KEYS
from proxy.server.lifecycle import DrainingServer
from proxy.server.monitoring import MONITORING
from proxy.server.openapi import OPENAPI
from proxy.server.protocol import FastProtocol
from proxy.workers.watchdog import Watchdog, limit_s

ROUTES = [*COMPLETIONS, *EMBEDDINGS, *MODELS, *PROBES, *ADMIN, *MONITORING, *CACHE, *KEYS, *OPENAPI, *DASHBOARD, FALLBACK]
PORT_S = 1.0


def create_app(
    read: Callable[[], Settings],
    *,
    runtime: Runtime | None = None,
    on_runtime: Callable[[Runtime], None] = lambda runtime: None,
) -> Starlette:
    """`read` loads the configuration: when the application starts, and again on every reload. `runtime`: what is to run, if it is made."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        running = runtime or Runtime(read(), reload=read)
        await running.start()
        on_runtime(running)
        try:
            yield {"gateway": running.gateway}
        finally:
            await running.stop()

    return Starlette(routes=routes(ROUTES), lifespan=lifespan)


def _from_environment() -> Settings:
    return _with_formats(load(config_path(os.environ), environ=os.environ))


def _with_formats(settings: Settings) -> Settings:
    """What requests will need is loaded with what asks for it: before workers are forked, and on a reload in the thread that reads."""
    load_formats({provider.dialect for provider in settings.providers.values() if provider.enabled})
    return settings


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

    def read() -> Settings:
        overrides: Overrides = {"host": host, "port": port, "data_dir": data_dir, "log_level": log_level}
        return _with_formats(load(config, environ=os.environ, env_file=env_file, overrides=overrides))

    try:
        settings = read()
    except ConfigError as error:
        return _refuse(*map(str, error.faults))
    fault = exposure_fault(settings)
    if fault is not None:
        return _refuse(fault)
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return _refuse(f"the ledger's folder {settings.data_dir} cannot be made: {error.strerror} (name another with --data-dir)")
    try:
        listeners = _listen(settings.server.host, settings.server.port, workers=workers)
    except OSError as error:
        where = f"{settings.server.host}:{settings.server.port}"
        return _refuse(f"cannot listen on {where}: {error.strerror}. Another program may be using it: try --port")
    _raise_file_limit()
    _write_no_core()

    def announce() -> None:
        bound_host, bound_port = listeners[0].getsockname()[:2]
        whereabouts.tell(settings.data_dir, bound_host, bound_port)
        started_ms = process_age_s(otherwise=time.monotonic() - began) * 1000
        try:
            sys.stdout.write(banner(settings, version=VERSION, host=bound_host, port=bound_port, started_ms=started_ms))
            sys.stdout.flush()
        except OSError as error:
            let_go_of_output()
            with suppress(OSError):
                sys.stderr.write(f"the banner cannot be written: {error.strerror}; the proxy runs on port {bound_port}\n")

    if workers > 1:
        # it is built on this module
        from proxy.workers.supervisor import Supervisor, SupervisorBusy

        try:
            return Supervisor(settings, read, listeners, announce=announce, drainer_first=needs_sums(settings)).run()
        except (SupervisorBusy, OSError) as error:
            return _refuse(str(error))
    return _serve_alone(settings, read, listeners[0], announce)


def _serve_alone(settings: Settings, read: Callable[[], Settings], listener: socket.socket, announce: Callable[[], None]) -> int:
    faulthandler.enable()
    hang_s = limit_s(os.environ)
    try:
        runtime = Runtime(settings, reload=read)
    except (JournalError, KeysBroken) as error:
        return _refuse(str(error))

    def ready() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, runtime.hang_up)
        if hang_s:
            Watchdog(lambda: runtime.signs_of_life, limit_s=hang_s).start()
        announce()

    server = DrainingServer(server_config(create_app(read, runtime=runtime)), lambda: runtime.gateway, on_started=ready)
    try:
        server.run(sockets=[listener])
    except SystemExit:
        return 1
    return 0


def server_config(application: ASGIApp) -> uvicorn.Config:
    """uvicorn with the fast lane in front of the application."""
    return uvicorn.Config(
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


def process_age_s(*, otherwise: float) -> float:
    """Since the kernel started this process, the interpreter's own start included. `otherwise`: where that cannot be told.

    https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: field 22, in clock ticks since boot; the name before it may hold spaces.
    """
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return otherwise


def _listen(host: str, port: int, *, workers: int = 1) -> list[socket.socket]:
    """One socket for each worker: the kernel spreads connections over them. Raises OSError."""
    first = _bound_alone(host, port)
    if workers > 1:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    first.listen(BACKLOG)
    return [first, *(listen_beside(first) for _ in range(workers - 1))]


def listen_beside(other: socket.socket) -> socket.socket:
    """Another socket at the address of one that was made for several workers. Raises OSError."""
    host, port = other.getsockname()[:2]
    listener = _bound(host, port, beside=True)
    listener.listen(BACKLOG)
    return listener


def _bound_alone(host: str, port: int) -> socket.socket:
    """Fails if anybody else listens there, be it with SO_REUSEPORT. A port that is taken is tried for a second: workers whose supervisor
    was killed are just giving it up."""
    until = time.monotonic() + PORT_S
    while True:
        try:
            return _bound(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= until:
                raise
        time.sleep(0.02)


def _bound(host: str, port: int, *, beside: bool = False) -> socket.socket:
    family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind, number)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)  # whoever comes in by it inherits that
    try:
        if beside:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _write_no_core() -> None:
    """A core file would hold every key."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _refuse(*lines: str) -> int:
    for line in lines:
        sys.stderr.write(line + "\n")
    return 1
