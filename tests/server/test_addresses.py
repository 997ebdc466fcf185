"""Whose request it is, and how much one address has open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.settings import PerAddress
from proxy.core.errors import RateLimitExceeded
from proxy.server.addresses import Addresses

unit = pytest.mark.unit
TRUSTED = ("10.0.0.0/8", "2001:db8:ffff::/48", "192.0.2.1")


def addresses(*, connections: int | None = None, in_flight: int | None = None, trusted: tuple[str, ...] = ()) -> Addresses:
    made = Addresses()
    made.configure(PerAddress(connections, in_flight), trusted)
    return made


@unit
@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("198.51.100.7", None, "198.51.100.7"),
        ("198.51.100.7", "203.0.113.9", "198.51.100.7"),
        ("10.1.2.3", None, "10.1.2.3"),
        ("10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("::ffff:10.1.2.3", "203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "127.0.0.1, 203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "203.0.113.9, 10.9.9.9 ,192.0.2.1", "203.0.113.9"),
        ("10.1.2.3", "10.9.9.9, 10.8.8.8", "10.1.2.3"),
        ("10.1.2.3", "203.0.113.9:4711", "203.0.113.9"),
        ("10.1.2.3", "[2001:db8::7]:443", "2001:db8::7"),
        ("2001:db8:ffff::1", "2001:db8::7", "2001:db8::7"),
        ("10.1.2.3", "203.0.113.9, unknown", None),
        ("10.1.2.3", "", None),
        ("10.1.2.3", "203.0.113.9, ", None),
        (None, "203.0.113.9", None),
        ("", "203.0.113.9", ""),
    ],
)
def test_the_caller_is_the_last_address_that_is_no_trusted_proxy_s(
    peer: str | None, forwarded: str | None, caller: str | None
) -> None:
    headers = {} if forwarded is None else {b"x-forwarded-for": forwarded.encode()}
    assert addresses(trusted=TRUSTED).caller(peer, headers) == caller


@unit
def test_without_trusted_proxies_nobody_is_believed() -> None:
    made = addresses(in_flight=1)
    assert not made.trusts
    assert made.caller("127.0.0.1", {b"x-forwarded-for": b"203.0.113.9"}) == "127.0.0.1"


@unit
def test_at_the_limit_and_one_more() -> None:
    made = addresses(connections=2, in_flight=1)
    names = [made.connect("198.51.100.7"), made.connect("198.51.100.7")]
    with pytest.raises(RateLimitExceeded, match="At most 2 connections are taken from one address"):
        made.connect("198.51.100.7")
    assert made.connect("198.51.100.8") is not None
    assert names[0] is not None
    made.disconnect(names[0])
    assert made.connect("198.51.100.7") is not None
    name = made.enter("198.51.100.7")
    with pytest.raises(RateLimitExceeded, match="At most 1 requests at a time"):
        made.enter("198.51.100.7")
    assert name is not None
    made.leave(name)
    assert made.enter("198.51.100.7") is not None


@unit
def test_addresses_that_are_one_caller_s() -> None:
    made = addresses(in_flight=2)
    assert made.enter("2001:db8:1:2::1") == made.enter("2001:db8:1:2:ffff::1") == "2001:db8:1:2::/64"
    with pytest.raises(RateLimitExceeded):
        made.enter("2001:db8:1:2::3")
    assert made.enter("2001:db8:1:3::1") == "2001:db8:1:3::/64"
    assert made.enter("::ffff:198.51.100.7") == made.enter("198.51.100.7") == "198.51.100.7"
    assert made.enter("fe80::1%eth0") == "fe80::/64"


@unit
def test_connections_of_a_trusted_proxy_and_those_without_an_address_are_not_counted() -> None:
    made = addresses(connections=1, in_flight=1, trusted=TRUSTED)
    assert [made.connect(peer) for peer in ("10.1.2.3", "10.1.2.3", None, None)] == [None] * 4
    assert [made.enter(None), made.enter(None)] == [None, None]


@unit
def test_a_reload_keeps_what_is_open() -> None:
    made = addresses(in_flight=2)
    names = [made.enter("198.51.100.7"), made.enter("198.51.100.7")]
    made.configure(PerAddress(None, 1), ())
    with pytest.raises(RateLimitExceeded):
        made.enter("198.51.100.7")
    made.configure(PerAddress(), ())
    assert not made.counts
    for name in names:
        assert name is not None
        made.leave(name)
    assert made._requests == {}


@pytest.mark.property
@given(
    st.lists(st.tuples(st.sampled_from(["198.51.100.7", "2001:db8::1", "2001:db8::2", "x"]), st.booleans())), st.integers(1, 3)
)
def test_nobody_gets_more_than_the_limit_and_nothing_is_left_behind(steps: list[tuple[str, bool]], most: int) -> None:
    made = addresses(in_flight=most)
    held: list[str] = []
    for address, comes in steps:
        if comes:
            try:
                name = made.enter(address)
            except RateLimitExceeded:
                assert max(map(held.count, held)) == most
            else:
                assert name is not None
                held.append(name)
        elif held:
            made.leave(held.pop())
        assert made._requests == {name: held.count(name) for name in held}
    for name in held:
        made.leave(name)
    assert made._requests == {}
