"""Request heads are made once, and hold the right key for the right provider."""

import pytest

from proxy.core.target import Credential, Provider, Secret
from proxy.engine.heads import MAX_HEADS, Heads, make_head

pytestmark = pytest.mark.unit

KEY = Credential("id", Secret("fake-key"))


def provider(name: str = "p", **rest: object) -> Provider:
    return Provider(name, "openai", "https://api.example.com/v1", (KEY,), **rest)  # type: ignore[arg-type]


def test_a_head_has_what_we_build_and_nothing_else() -> None:
    head = make_head(provider(headers={"X-Title": "t"}), KEY, "POST", "/chat/completions")
    assert (head.origin.authority, head.path) == ("api.example.com", "/v1/chat/completions")
    assert dict(head.headers) == {
        b"content-type": b"application/json",
        b"accept-encoding": b"identity",
        b"user-agent": b"tollbridge",
        b"authorization": b"Bearer fake-key",
        b"x-title": b"t",
    }


def test_the_key_goes_where_the_provider_wants_it_and_nowhere_without_one() -> None:
    head = make_head(provider(auth_header="api-key", auth_prefix=""), KEY, "POST", "/x")
    assert (b"api-key", b"fake-key") in head.headers
    assert b"authorization" not in dict(head.headers)
    assert b"authorization" not in dict(make_head(provider(), Credential("none", None), "POST", "/x").headers)


def test_the_same_provider_key_and_path_give_the_same_head() -> None:
    heads, one = Heads(), provider()
    head = heads.get(one, KEY, "/x")
    assert heads.get(one, KEY, "/x") is head
    assert heads.get(one, KEY, "/y") is not head
    assert heads.get(one, Credential("other", Secret("other-fake")), "/x") is not head


def test_a_provider_that_a_reload_has_changed_gets_a_head_of_its_own() -> None:
    heads, before, after = Heads(), provider(), provider(headers={"x-new": "1"})
    assert (b"x-new", b"1") not in heads.get(before, KEY, "/x").headers
    assert (b"x-new", b"1") in heads.get(after, KEY, "/x").headers


def test_heads_are_bounded() -> None:
    heads, one = Heads(), provider()
    for n in range(MAX_HEADS + 10):
        heads.get(one, KEY, f"/{n}")
    assert len(heads._made) <= MAX_HEADS
