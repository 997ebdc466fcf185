"""Request heads, made once for each provider, credential and path: the call itself then only adds a length and a body."""

from __future__ import annotations

from proxy.core.ports import RequestHead
from proxy.core.target import Credential, Provider
from proxy.upstream.origin import parse_base_url

MAX_HEADS = 4096
_FIXED = ((b"content-type", b"application/json"), (b"accept-encoding", b"identity"), (b"user-agent", b"tollbridge"))


class Heads:
    def __init__(self) -> None:
        # the provider is kept beside its head: an id is only a name while the object lives
        self._made: dict[tuple[int, str, str], tuple[Provider, RequestHead]] = {}

    def get(self, provider: Provider, credential: Credential, path: str) -> RequestHead:
        key = (id(provider), credential.id, path)
        found = self._made.get(key)
        if found is None:
            if len(self._made) >= MAX_HEADS:
                self._made.clear()
            found = self._made[key] = (provider, make_head(provider, credential, "POST", path))
        return found[1]


def make_head(provider: Provider, credential: Credential, method: str, path: str) -> RequestHead:
    proxy_url = provider.proxy_url.reveal() if provider.proxy_url is not None else None
    origin, prefix = parse_base_url(provider.base_url, ca_file=provider.ca_file, proxy_url=proxy_url)
    headers = list(_FIXED)
    if credential.secret is not None and not provider.signs:  # what signs is no key to send
        value = provider.auth_prefix + credential.secret.reveal()
        headers.append((provider.auth_header.encode("ascii"), value.encode("latin-1")))
    headers += [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in provider.headers.items()]
    return RequestHead.make(origin, method, prefix + path, headers)
