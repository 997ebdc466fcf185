"""Host names to addresses: off the event loop, within two seconds, asked once for all who wait, remembered for thirty seconds."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from asyncio import get_running_loop as running_loop
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import Clock

LOOKUP_S = 2.0
REMEMBER_S = 30.0
MAX_NAMES = 1024


@dataclass(frozen=True, slots=True)
class _Answer:
    addresses: Sequence[str]
    until: float


class Resolver:
    """The system's resolver (`getaddrinfo`), so /etc/hosts and search domains count. Failures are not remembered."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answers: dict[str, _Answer] = {}
        self._lookups: dict[str, asyncio.Task[Sequence[str] | str]] = {}

    async def __call__(self, host: str) -> Sequence[str]:
        """Addresses in the order to try them, IPv6 and IPv4 in turn. Raises UpstreamError(dns)."""
        if is_address(host):
            return (host,)
        answer = self._answers.get(host)
        if answer is not None and self._clock.monotonic() < answer.until:
            return answer.addresses
        lookup = self._lookups.get(host)
        if lookup is None:
            lookup = running_loop().create_task(self._look_up(host))
            self._lookups[host] = lookup
        result = await asyncio.shield(lookup)  # one who leaves does not take it from the others
        if isinstance(result, str):
            raise UpstreamError(ErrorClass.DNS, result, sent=False)
        return result

    async def _look_up(self, host: str) -> Sequence[str] | str:
        """The addresses, or why there are none: a value, since nobody may be left to hear an exception."""
        try:
            async with asyncio.timeout(LOOKUP_S):
                found = await running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except TimeoutError:
            return f"no answer for {host} within {LOOKUP_S:g} s"
        except (OSError, UnicodeError) as error:
            return f"{host} does not resolve: {error}"
        finally:
            self._lookups.pop(host, None)
        addresses = in_turn([str(sockaddr[0]) for _, _, _, _, sockaddr in found])
        if not addresses:
            return f"{host} has no address"
        if len(self._answers) >= MAX_NAMES:
            self._answers.pop(next(iter(self._answers)))
        self._answers[host] = _Answer(addresses, self._clock.monotonic() + REMEMBER_S)
        return addresses

    async def aclose(self) -> None:
        lookups = list(self._lookups.values())
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def in_turn(addresses: Sequence[str]) -> list[str]:
    """IPv6 and IPv4 alternating, each in its given order, the first one's family first (RFC 8305, section 4)."""
    unique = list(dict.fromkeys(addresses))
    if not unique:
        return unique
    first = [a for a in unique if (":" in a) == (":" in unique[0])]
    other = [a for a in unique if (":" in a) != (":" in unique[0])]
    mixed: list[str] = []
    while first or other:
        mixed += first[:1] + other[:1]
        first, other = first[1:], other[1:]
    return mixed
