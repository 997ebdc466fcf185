"""Base URLs become origins, and faults are named without showing the URL."""

from __future__ import annotations

import pytest

from proxy.core.ports import Origin
from proxy.upstream.origin import parse_base_url

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("url", "origin", "prefix", "authority"),
    [
        ("https://api.openai.com/v1", Origin("https", "api.openai.com", 443), "/v1", "api.openai.com"),
        ("https://API.Example.com", Origin("https", "api.example.com", 443), "", "api.example.com"),
        ("http://127.0.0.1:11434/v1/", Origin("http", "127.0.0.1", 11434), "/v1", "127.0.0.1:11434"),
        ("http://[::1]:8000/a/b", Origin("http", "::1", 8000), "/a/b", "[::1]:8000"),
        ("https://bücher.example/v1", Origin("https", "xn--bcher-kva.example", 443), "/v1", "xn--bcher-kva.example"),
        ("https://x.example/a%2Fb", Origin("https", "x.example", 443), "/a%2Fb", "x.example"),
    ],
)
def test_what_a_base_url_means(url: str, origin: Origin, prefix: str, authority: str) -> None:
    assert parse_base_url(url) == (origin, prefix)
    assert origin.authority == authority


def test_the_rest_of_the_origin_is_passed_on() -> None:
    origin, _ = parse_base_url("https://x.example", ca_file="/etc/ca.pem", proxy_url="http://proxy:3128")
    assert (origin.ca_file, origin.proxy_url) == ("/etc/ca.pem", "http://proxy:3128")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.openai.com/v1",
        "ftp://x.example/",
        "https:///v1",
        "https://user:hidden@x.example/v1",
        "https://x.example/v1?key=hidden",
        "https://x.example/v1#hidden",
        "https://x.example:hidden/v1",
        "https://x.example:70000/v1",
        "https://x.example/hidden path",
        "https://x.example/hidden\r\nx: y",
        "https://x.example/hiddén",
    ],
)
def test_a_base_url_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        parse_base_url(url)
    assert "hidd" not in str(caught.value)
