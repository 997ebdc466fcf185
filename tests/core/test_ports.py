"""What is sent is rendered once, and holds a credential that must not show."""

import pytest

from proxy.core.ports import Origin, RequestHead

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        (Origin("https", "api.example.com", 443), "api.example.com"),
        (Origin("http", "api.example.com", 80), "api.example.com"),
        (Origin("http", "api.example.com", 443), "api.example.com:443"),
        (Origin("https", "api.example.com", 8443), "api.example.com:8443"),
        (Origin("http", "::1", 8000), "[::1]:8000"),
        (Origin("https", "::1", 443), "[::1]"),
    ],
)
def test_the_authority_names_the_port_only_where_it_is_not_the_schemes_own(origin: Origin, authority: str) -> None:
    assert origin.authority == authority


def test_a_head_is_rendered_up_to_the_length_that_a_call_adds() -> None:
    origin = Origin("http", "127.0.0.1", 8000)
    head = RequestHead.make(origin, "POST", "/v1/chat/completions?a=b", [(b"authorization", b"Bearer fake"), (b"x-a", b"1")])
    assert head.rendered == (
        b"POST /v1/chat/completions?a=b HTTP/1.1\r\nhost: 127.0.0.1:8000\r\nauthorization: Bearer fake\r\nx-a: 1\r\ncontent-length: "
    )
    assert head.headers == ((b"authorization", b"Bearer fake"), (b"x-a", b"1"))


def test_a_head_does_not_show_its_credential() -> None:
    head = RequestHead.make(Origin("http", "127.0.0.1", 8000), "POST", "/v1", [(b"authorization", b"Bearer fake-secret")])
    assert "fake-secret" not in repr(head)
    assert repr(head) == "RequestHead(POST 127.0.0.1:8000/v1)"


def test_origins_are_keys_of_pools_and_heads_are_themselves() -> None:
    assert Origin("http", "a", 80) == Origin("http", "a", 80)
    assert len({Origin("http", "a", 80), Origin("http", "a", 80), Origin("https", "a", 80)}) == 2
    one, other = (RequestHead.make(Origin("http", "a", 80), "GET", "/", []) for _ in range(2))
    assert one != other
