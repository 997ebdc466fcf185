"""Starting is quick because little is loaded."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from proxy.app import process_age_s

ROOT = Path(__file__).parent.parent
# heavy, and needed by few: an SDK's HTTP stack, price data, a vocabulary, terminal tables, the exposition format
NOT_AT_START = ("httpx2", "genai_prices", "tiktoken", "typer", "rich", "prometheus_client", "sqlite3.dump", "openai")
# what the modules that `proxy.late` leaves out would bring
LEFT_OUT = (
    "anyio._core",
    "click",
    "email.parser",
    "html.entities",
    "importlib.metadata._meta",
    "logging.handlers",
    "multiprocessing",
)
# formats of their own, which a provider that speaks them brings
FOREIGN_FORMATS = (
    "proxy.dialects.anthropic.dialect",
    "proxy.dialects.bedrock.dialect",
    "proxy.dialects.cohere.dialect",
    "proxy.dialects.gemini.dialect",
    "proxy.dialects.vertex",
)
FILE = """
providers: {ollama: {}, local: {dialect: openai, base_url: "http://127.0.0.1:1/v1"}, anthropic: {enabled: false}}
chains: {chat: [local/one, anthropic/two, ollama/three], "gpt-*": [local/gpt-*]}
"""
READ = """
import sys
from proxy.late import leave_unused_modules
leave_unused_modules()
from proxy import app
from proxy.config import schema
from proxy.workers import supervisor
app._from_environment()
print(*sys.modules, sep="\\n")
print(*(f"built:{name}" for name, kind in vars(schema).items() if getattr(kind, "__pydantic_complete__", False)), sep="\\n")
"""
READY_S = 1.0
RUNS = 5


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.unit
def test_a_server_that_has_read_its_configuration_has_loaded_nothing_that_it_does_not_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "providers.yaml").write_text(FILE, encoding="utf-8")
    monkeypatch.setenv("TOLLBRIDGE_CONFIG", str(tmp_path / "providers.yaml"))
    loaded = set(run(READ).split())
    assert {"proxy.engine.relay", "proxy.dialects.ollama.dialect"} <= loaded
    assert {"uvloop", "uvicorn.lifespan.on"} <= loaded  # which a worker would load after its fork
    assert sorted(loaded & {*NOT_AT_START, *LEFT_OUT, *FOREIGN_FORMATS}) == []
    assert sorted(name for name in loaded if name.startswith("built:")) == [
        "built:File"
    ]  # each takes as long as all the rest of the file


@pytest.mark.unit
def test_the_drainers_process_is_lean() -> None:
    loaded = set(run("import sys, proxy.storage.drainer; print('\\n'.join(sys.modules))").split())
    assert sorted(loaded & {*NOT_AT_START, "pydantic", "starlette", "uvicorn", "asyncio", "yaml"}) == []


@pytest.mark.unit
def test_the_age_of_the_process_is_the_kernels_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    first = process_age_s(otherwise=-1)
    assert 0 < first <= process_age_s(otherwise=-1)

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr("proxy.app.os.sysconf", unknown)
    assert process_age_s(otherwise=0.5) == 0.5


def seconds_to_ready(folder: Path) -> float:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "providers.yaml").write_text("providers: {demo: {}}\nchains: {demo: [demo/chat]}\n", encoding="utf-8")
    command = [sys.executable, "-m", "proxy", "serve", "--config", str(folder / "providers.yaml"), "--port", str(port)]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    try:
        with httpx2.Client(trust_env=False) as client:
            while True:
                try:
                    if client.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                        return time.perf_counter() - started
                except httpx2.TransportError:
                    assert process.poll() is None
                    assert time.perf_counter() - started < 20
    finally:
        process.send_signal(signal.SIGINT)  # unlike SIGTERM it waits for no load balancer
        process.wait(20)


@pytest.mark.performance
def test_from_start_to_ready_takes_less_than_a_second(tmp_path: Path) -> None:
    seconds_to_ready(tmp_path)  # warm
    assert sorted(seconds_to_ready(tmp_path) for _ in range(RUNS))[RUNS // 2] < READY_S
