"""What is measured: the proxy, nginx's `proxy_pass`, a proxy done the obvious way, and no proxy at all.

Each is started on loopback before the same upstream, alone on its core, and stopped again. `settle_s` is how long a subject may
go on working after its last answer: Tollbridge's ledger is drained within a second, and that is part of what a request costs.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from tests.bench.processes import Child, HarnessError, free_port, python, wait_ready

NGINX_MISSING = """\
nginx is not installed, and it is what everything here is compared with: apt-get install nginx-light (or nginx), or name the
subjects to run without it: --subjects tollbridge,obvious"""

_NGINX_CONF = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log stderr error;
{user}
events {{ worker_connections 8192; }}
http {{
  access_log off;
  keepalive_timeout 600s;
  keepalive_requests 100000000;
  client_max_body_size 32m;
  client_body_buffer_size 1m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream provider {{
    server 127.0.0.1:{upstream};
    keepalive 2048;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /readyz {{ return 200 "ready"; }}
    location / {{
      proxy_pass http://provider;
      proxy_http_version 1.1;
      proxy_set_header connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


_PLACES = {"bedrock": {"region": "us-east-1"}}  # what a provider of that dialect must say of itself, besides


class Subject:
    """One proxy, running between `start` and `stop`."""

    name: str
    settle_s = 0.05

    def __init__(self, folder: Path, upstream_port: int, core: int | None) -> None:
        self.folder = folder / self.name
        self.folder.mkdir()
        self.upstream_port = upstream_port
        self.core = core
        self.port = free_port()
        self.child: Child | None = None
        self.idle_ns = (0.0, 0.0)  # CPU for each second of doing nothing: of all its processes, and of the first alone

    def start(self) -> float:
        """Seconds from the start of the process until it was ready."""
        began = time.monotonic()
        self.child = Child(self.argv(), log=self.folder / "log", core=self.core, env=self.env())
        wait_ready(self.child, self.port, "/readyz")
        return time.monotonic() - began

    def argv(self) -> list[str]:
        raise NotImplementedError

    def env(self) -> Mapping[str, str]:
        return {}

    def cpu_ns(self) -> tuple[int, int]:
        """CPU time so far: of all its processes, and of the first alone."""
        return self.child.cpu_ns() if self.child is not None else (0, 0)

    def rest(self, seconds: float) -> None:
        """Finds out what it does while nothing is asked of it."""
        before = self.cpu_ns()
        time.sleep(seconds)
        after = self.cpu_ns()
        self.idle_ns = ((after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds)

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop()


class Nginx(Subject):
    name = "nginx"

    def argv(self) -> list[str]:
        program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if program is None:
            raise HarnessError(NGINX_MISSING)
        conf = self.folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        conf.write_text(_NGINX_CONF.format(folder=self.folder, user=user, upstream=self.upstream_port, port=self.port))
        return [program, "-e", "stderr", "-p", str(self.folder), "-c", str(conf)]


class Obvious(Subject):
    name = "obvious"

    def argv(self) -> list[str]:
        options = [
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--no-access-log",
            "--log-level",
            "warning",
            "--backlog",
            "4096",
        ]
        return python("-m", "uvicorn", "tests.bench.obvious:app", *options)

    def env(self) -> Mapping[str, str]:
        return {"UPSTREAM": f"http://127.0.0.1:{self.upstream_port}"}


class Tollbridge(Subject):
    """The program as it is run by anybody: ledger, trace and metrics on."""

    name = "tollbridge"
    settle_s = 1.3

    def __init__(
        self,
        folder: Path,
        upstream_port: int,
        core: int | None,
        *,
        models: Sequence[str] = (),
        transport: str = "native",
        profile: Path | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(folder, upstream_port, core)
        self.profile = profile
        self.data_dir = self.folder / "data"
        self.config = self.folder / "providers.yaml"
        settings = dict(config) if config is not None else bench_config(upstream_port, models, transport=transport)
        self.config.write_bytes(orjson.dumps(settings, option=orjson.OPT_INDENT_2))  # JSON is YAML

    def argv(self) -> list[str]:
        profiler = ["-m", "cProfile", "-o", str(self.profile)] if self.profile is not None else []
        options = ["--config", str(self.config), "--port", str(self.port), "--data-dir", str(self.data_dir)]
        return python(*profiler, "-m", "proxy", "serve", *options)


def bench_config(upstream_port: int, models: Sequence[str], *, transport: str = "native") -> dict[str, Any]:
    """One provider, and a chain for each of its models, of the same name. `M@anthropic` is M of a provider of that dialect."""
    asked = [model.partition("@") for model in models]
    chains = {name + at + dialect: [f"{dialect or 'mock'}/{name}"] for name, at, dialect in asked}
    origin = f"http://127.0.0.1:{upstream_port}"
    common = {"api_key": "sk-mock", "transport": transport, "prices": {"*": {"input": 1, "output": 2}}}
    providers = {"mock": {"dialect": "openai", "base_url": f"{origin}/v1", **common}}
    for dialect in dict.fromkeys(dialect for _, _, dialect in asked if dialect):
        providers[dialect] = {"dialect": dialect, "base_url": origin, **common, **_PLACES.get(dialect, {})}
    return {"server": {"log_level": "info"}, "providers": providers, "chains": chains}


class Direct(Subject):
    """No proxy: what the upstream and the load generator reach by themselves. Anything below this is not the proxy's doing."""

    name = "direct"

    def start(self) -> float:
        self.port = self.upstream_port
        return 0.0


SUBJECTS: dict[str, type[Subject]] = {kind.name: kind for kind in (Tollbridge, Nginx, Obvious, Direct)}
DEFAULT = ("tollbridge", "nginx", "obvious")
