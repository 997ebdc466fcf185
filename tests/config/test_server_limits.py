"""`server:`, what it takes in and from whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.faults import ConfigError
from proxy.config.load import load
from proxy.config.settings import PerAddress, ServerSettings

pytestmark = pytest.mark.unit


def server(tmp_path: Path, text: str) -> ServerSettings:
    path = tmp_path / "providers.yaml"
    path.write_text(f"server: {text}\n", encoding="utf-8")
    return load(path, environ={}).server


def test_what_is_not_written(tmp_path: Path) -> None:
    found = server(tmp_path, "{}")
    assert (found.max_in_flight, found.max_wait_s, found.per_ip) == (4096, 0.1, PerAddress(None, None))
    assert (found.trusted_proxies, found.allowed_hosts) == ((), frozenset())


def test_what_is_written(tmp_path: Path) -> None:
    text = """{max_in_flight: 100, max_wait: 0s, per_ip: {in_flight: 5}, trusted_proxies: [10.0.0.7, "2001:db8::/32"],
  allowed_hosts: [LLM.example.com, "::1"]}"""
    found = server(tmp_path, text)
    assert (found.max_in_flight, found.max_wait_s, found.per_ip) == (100, 0.0, PerAddress(None, 5))
    assert found.trusted_proxies == ("10.0.0.7", "2001:db8::/32")
    assert found.allowed_hosts == {"llm.example.com", "::1"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{max_in_flight: 0}", "max_in_flight"),
        ("{max_wait: 100}", "a number with its unit"),
        ("{per_ip: {connections: -1}}", "connections"),
        ("{per_ip: 5}", "per_ip"),
        ("{trusted_proxies: [10.0.0.0/33]}", "'10.0.0.0/33' is no address and no network (write 10.0.0.7 or 10.0.0.0/8)"),
        ("{trusted_proxies: [nginx]}", "'nginx' is no address"),
        ("{allowed_hosts: ['https://llm.example.com']}", "is not a host name (write it without scheme and port"),
        ("{allowed_hosts: ['llm.example.com:443']}", "is not a host name"),
        ("{allowed_hosts: ['*']}", "is not a host name"),
    ],
)
def test_what_makes_no_sense_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        server(tmp_path, text)
    assert told in str(raised.value)
    assert "providers.yaml:1:" in str(raised.value)
