"""Callers by address: who a request comes from, and how much one address has open. Nothing here runs where nothing is configured.

Behind a reverse proxy every connection comes from that proxy. Where `server.trusted_proxies` names it, the caller is the last address
in `X-Forwarded-For` that is not itself a trusted proxy's: what stands before it, the caller may have written himself.

An IPv6 address counts as its /64, which is what one caller is given: https://www.rfc-editor.org/rfc/rfc6177
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from proxy.config.settings import PerAddress
from proxy.core.errors import RateLimitExceeded

_V6_PREFIX = 64


class Addresses:
    """Holds what is open by address, and nothing of an address with nothing open."""

    def __init__(self) -> None:
        self._trusted: tuple[IPv4Network | IPv6Network, ...] = ()
        self._limits = PerAddress()
        self._connections: dict[str, int] = {}
        self._requests: dict[str, int] = {}
        self.counts = False  # whether there is a limit at all
        self.trusts = False

    def configure(self, limits: PerAddress, trusted_proxies: Sequence[str]) -> None:
        """What is open stays counted."""
        self._limits = limits
        self._trusted = tuple([ip_network(one, strict=False) for one in trusted_proxies])
        self.counts = limits != PerAddress()
        self.trusts = bool(trusted_proxies)

    def caller(self, peer: str | None, headers: Mapping[bytes, bytes]) -> str | None:
        """Whose request it is, told by the connection's `peer`: the address as text, None where that cannot be known."""
        forwarded = headers.get(b"x-forwarded-for") if self.trusts and self._is_trusted(peer) else None
        if forwarded is None:
            return peer
        for part in reversed(forwarded.decode("latin-1").split(",")):
            address = _without_port(part.strip())
            if _parsed(address) is None:
                return None  # written by a proxy that does not know, or by nobody that we trust
            if not self._is_trusted(address):
                return address
        return peer

    def connect(self, peer: str | None) -> str | None:
        """Counts a connection, by the name that `disconnect` needs; None where it is not counted. Raises RateLimitExceeded."""
        most = self._limits.connections
        if most is None or peer is None or self._is_trusted(peer):
            return None
        return _count(self._connections, peer, most, "connections")

    def disconnect(self, name: str) -> None:
        _discount(self._connections, name)

    def enter(self, caller: str | None) -> str | None:
        """Counts a request, likewise, for `leave`. Raises RateLimitExceeded."""
        most = self._limits.in_flight
        if most is None or caller is None:
            return None
        return _count(self._requests, caller, most, "requests at a time")

    def leave(self, name: str) -> None:
        _discount(self._requests, name)

    def _is_trusted(self, address: str | None) -> bool:
        if not self._trusted or (parsed := _parsed(address or "")) is None:
            return False
        return any(parsed in network for network in self._trusted)


def _count(open_: dict[str, int], address: str, most: int, what: str) -> str:
    name = _name(address)
    count = open_.get(name, 0)
    if count >= most:
        raise RateLimitExceeded(f"At most {most} {what} are taken from one address (`server.per_ip`).", retry_after_s=1)
    open_[name] = count + 1
    return name


def _discount(open_: dict[str, int], name: str) -> None:
    left = open_[name] - 1
    if left:
        open_[name] = left
    else:
        del open_[name]


def _name(address: str) -> str:
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _V6_PREFIX), strict=False))
    return str(parsed or address)


def _parsed(address: str) -> object:
    """None for what is no address. An IPv4 address in IPv6 clothes is the former."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def _without_port(text: str) -> str:
    """`[2001:db8::1]:443` and `192.0.2.1:80`, as some proxies write it."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text
