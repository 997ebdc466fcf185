"""Where commands look for the proxy that runs: where it says that it listens, else where the configuration says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.commands.running import Running
from proxy.config import whereabouts
from proxy.config.load import load
from proxy.config.settings import Settings

pytestmark = pytest.mark.unit


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = tmp_path / "providers.yaml"
    file.write_text("server: {port: 4711}\n", encoding="utf-8")
    (tmp_path / "data").mkdir()
    return load(file, environ={})


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000"),
        ("0.0.0.0", "http://127.0.0.1:9000"),
        ("::", "http://[::1]:9000"),
        ("::1", "http://[::1]:9000"),
    ],
)
def test_a_proxy_that_was_told_another_port_is_found(settings: Settings, host: str, url: str) -> None:
    whereabouts.tell(settings.data_dir, host, 9000)
    assert whereabouts.ask(settings.data_dir) == (host, 9000)
    assert Running(settings).url == url
    assert Running(settings, host="127.0.0.1", port=1).url == "http://127.0.0.1:1"


def test_one_that_is_gone_is_not(settings: Settings) -> None:
    done = subprocess.Popen([sys.executable, "-S", "-c", ""])
    done.wait()
    (settings.data_dir / whereabouts.LISTENING).write_text(f"{done.pid} 9000 127.0.0.1\n", encoding="ascii")
    assert whereabouts.ask(settings.data_dir) is None
    assert Running(settings).url == "http://127.0.0.1:4711"


@pytest.mark.parametrize(
    "written", [None, b"", b"1 2", b"one 2 three", b"1 two three", b"1 2 3 4", b"\xff 2 3", b"9" * 40 + b" 2 3"]
)
def test_what_makes_no_sense_says_nothing(settings: Settings, written: bytes | None) -> None:
    if written is not None:
        (settings.data_dir / whereabouts.LISTENING).write_bytes(written)
    assert whereabouts.ask(settings.data_dir) is None


def test_another_user_s_process_is_there(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(_pid: int, _signal: int) -> None:
        raise PermissionError

    whereabouts.tell(settings.data_dir, "127.0.0.1", 9000)
    monkeypatch.setattr(os, "kill", kill)
    assert whereabouts.ask(settings.data_dir) == ("127.0.0.1", 9000)


def test_a_folder_that_takes_no_file_is_no_reason_not_to_start(tmp_path: Path) -> None:
    whereabouts.tell(tmp_path / "nowhere", "127.0.0.1", 9000)
    assert whereabouts.ask(tmp_path / "nowhere") is None
