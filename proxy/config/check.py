"""Rules across the file: chains whose answers would not fit together, clients whose time is over, a start that would expose the proxy."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from proxy.config.draft import Draft
from proxy.config.faults import Path, did_you_mean, one_line
from proxy.config.settings import Settings
from proxy.core.target import Target

_MAKER = re.compile(r"^(?:[a-z-]{2,6}\.)?(?:amazon|cohere)\.")  # how Bedrock begins a name
_VERSION = re.compile(r"(?:\.0|:\d+|:latest)+$")


def warn_of_mixed_embeddings(chain: str, targets: Iterable[tuple[Path, Target]], draft: Draft) -> None:
    """Vectors of two models mean nothing to each other, of whatever length they are: a failover from one to the other would go unseen,
    and what was stored with it would not be found again."""
    first: str | None = None
    for place, target in targets:
        model = target.upstream_model
        if "embed" not in model.lower() and "embeddings" not in (target.capabilities or ()):
            continue
        if first is None:
            first = model
        elif _embedding_model(model) != _embedding_model(first):
            draft.warn(
                place,
                f"chain '{one_line(chain)}' has two embedding models, '{one_line(first)}' and '{one_line(model)}', whose vectors must"
                " not be mixed (keep one of them; it may stay if both names mean the same model)",
            )


def warn_of_expired(draft: Draft, now_s: float) -> None:
    """Clients whose keys open nothing any more. `now_s`: seconds since 1970."""
    for name, section in draft.file.clients.items():
        if section.expires is not None and section.expires <= now_s:
            draft.warn(
                ("clients", name, "expires"),
                f"the keys of client '{one_line(name)}' have expired and open nothing (write a later date, or remove the client)",
            )


def _embedding_model(name: str) -> str:
    """The model, as far as its name tells, however a provider decorates it."""
    return _VERSION.sub("", _MAKER.sub("", name.lower().rpartition("/")[2]))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


ANY_ADDRESS = frozenset(("0.0.0.0", "::"))  # noqa: S104 - compared, not bound


def calls_itself(base_url: str, host: str, port: int) -> bool:
    """Whether an address is where the proxy itself listens, so that a request sent there would come back, and again."""
    try:
        url = urlsplit(base_url)
        called, called_port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    except ValueError:
        return False
    if called_port != port or not called:
        return False
    return called == host.strip("[]").lower() or (is_loopback(called) and (is_loopback(host) or host in ANY_ADDRESS))


def exposure_fault(settings: Settings) -> str | None:
    """Why the proxy must not start with these settings: it cannot tell who may come in, or is reachable by others with nothing that
    keeps them out. None: it may."""
    if settings.keys_problem is not None:
        return settings.keys_problem
    if settings.auth_none or is_loopback(settings.server.host):
        return None
    lacking = [
        words
        for words, there in (
            ("clients: with their keys", settings.needs_key),
            ("auth.admin_token", settings.admin_token is not None),
        )
        if not there
    ]
    if not lacking:
        return None
    return (
        f"the address {settings.server.host} can be reached from other machines, and {' and '.join(lacking)} "
        f"{'are' if len(lacking) > 1 else 'is'} not set (write them, listen on 127.0.0.1, or write auth: none)"
    )


def check_judges(settings: Settings, draft: Draft) -> None:
    """A judge that cannot be found would never be asked, and nobody would notice."""
    for chain, quality in settings.gates().items():
        judge = quality.judge
        if judge is None or settings.resolve(judge) is not None:
            continue
        provider = judge.partition("/")[0]
        if provider not in settings.providers or provider == judge:  # else it is disabled, which is said already
            advice = did_you_mean(judge, settings.chains, otherwise="write a chain, or provider/model of a provider in this file")
            draft.fault(("chains", chain, "quality", "judge"), f"unknown model '{one_line(judge)}'{advice}")


METADATA_HOSTS = frozenset(
    ("metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal")
)
METADATA_NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        (
            "169.254.0.0/16",
            "fe80::/10",
            "100.100.100.200/32",
            "168.63.129.16/32",
            "192.0.0.192/32",
            "fd00:ec2::/32",
            "fd20:ce::254/128",
        ),
    )
)


def is_metadata_host(host: str) -> bool:
    """Whether a name or address is one where clouds hand out credentials, in any of the ways to write an IPv4 address."""
    host = host.lower().rstrip(".")
    if host in METADATA_HOSTS:
        return True
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(host))  # 2852039166, 0xa9fea9fe, 169.254.43518
        except (OSError, UnicodeError, ValueError):
            return False
    return any(
        inner in network for inner in _unwrapped(address) for network in METADATA_NETWORKS if inner.version == network.version
    )


def _unwrapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The address, and the IPv4 address inside it: mapped, 6to4, Teredo or NAT64."""
    found: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        found += [inner for inner in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())) if inner is not None]
        if address in ipaddress.ip_network("64:ff9b::/96"):
            found.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return found
