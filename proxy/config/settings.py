"""The configuration in force: frozen, swapped whole on a reload. A request holds the `Settings` that it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from proxy.config.keyring import NO_KEYS, Keyring
from proxy.config.patterns import matched_part
from proxy.core.alerts import Levels, Severity
from proxy.core.limits import NO_LIMITS, Budget, HealthSettings, RateLimits
from proxy.core.target import CacheSettings, Chain, Provider, QualitySettings, Secret, Target

MAX_MEMOISED_MODELS = 4096
AUTO = "auto"  # the model name that means: whichever target suits best
DAY_S = 86_400.0
MAX_MODEL_NAME = 512  # longer names mean nothing, and are not remembered


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Who may call. `key_digests` are SHA-256, or of a runtime key HMAC-SHA-256; `chains` None means every model name, direct targets
    included; `models` are patterns of the names that may be asked for, None for all. `expires_s`: seconds since 1970. `key_id`: of the
    runtime key that it is made of, None for one of the file."""

    name: str
    key_digests: frozenset[bytes]
    department: str | None = None
    agent: str | None = None
    chains: frozenset[str] | None = None
    budget: Budget | None = None
    limits: RateLimits = NO_LIMITS
    models: tuple[str, ...] | None = None
    expires_s: float | None = None
    key_id: str | None = None

    @property
    def is_limited(self) -> bool:
        """To some models."""
        return self.chains is not None or self.models is not None

    def may_use(self, model: str, chain: str | None) -> bool:
        """`model`: the name that is asked for. `chain`: the one that it means, None for a direct target."""
        if self.chains is not None and chain not in self.chains:
            return False
        return self.models is None or any(matched_part(pattern, model) is not None for pattern in self.models)


@dataclass(frozen=True, slots=True)
class PerAddress:
    """What one address may have open at a time; None: no limit."""

    connections: int | None = None
    in_flight: int | None = None


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the proxy listens, and what it takes in."""

    host: str = "127.0.0.1"
    port: int = 8080
    max_body_bytes: int = 32 << 20
    cors_origins: tuple[str, ...] = ()
    log_level: str = "info"
    drain_delay_s: float = 2.0
    drain_timeout_s: float = 30.0
    max_in_flight: int = 4096
    max_wait_s: float = 0.1
    per_ip: PerAddress = PerAddress()
    trusted_proxies: tuple[str, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is kept: rows of requests and attempts, the sums over them, checks of providers and alerts. Seconds."""

    requests_s: float = 90 * DAY_S
    rollups_s: float = 730 * DAY_S
    health_s: float = 30 * DAY_S


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """`fsync`: what a record survives. `on_full`: what becomes of a request whose record cannot be written."""

    fsync: Literal["process", "group", "strict"] = "process"
    on_full: Literal["refuse", "serve"] = "refuse"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where alerts of at least `least` are sent. `shape`: what a webhook's body looks like."""

    kind: Literal["webhook", "apprise"]
    url: Secret
    least: Severity = "warning"
    shape: Literal["json", "slack"] = "json"


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """Thresholds by kind, see `core/alerts.py`. `budget` and `quota` are shares of the limit, ascending; `first_token` is times what is
    usual; `severities` override a kind's own."""

    budget: tuple[float, ...] = (0.8, 1.0)
    quota: tuple[float, ...] = (0.75, 0.9, 0.95)
    error_rate: Levels = field(default_factory=lambda: Levels(0.05, 0.2))
    failover_rate: Levels = field(default_factory=lambda: Levels(0.1, 0.5))
    first_token: Levels = field(default_factory=lambda: Levels(2.0, 4.0))
    ledger_lag_s: Levels = field(default_factory=lambda: Levels(30.0, 300.0))
    rate_limit_s: float = 300.0
    off: frozenset[str] = frozenset()
    severities: Mapping[str, Severity] = field(default_factory=dict)
    to: tuple[Destination, ...] = ()


@dataclass(frozen=True, slots=True)
class ChainTemplate:
    """A chain whose name holds a `*`. `make` builds it for what the `*` stood for."""

    name: str
    make: Callable[[str], Chain]
    targets: tuple[str, ...]
    quality: QualitySettings | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, repr=False)
class Settings:
    """Everything that the file, the environment and the catalogue came to.

    `hash`: 12 hex digits over the effective configuration, secrets by fingerprint. `providers` are those that the file names, in
    stanzas or chains, and `demo`. `wildcards`: longest literal part first. `files`: what to watch for changes. `budget` is of
    everything, `departments` and `agents` are those that have one.

    `clients` are those of the file and those that the runtime keys come to (`key_rules.py`). `needs_key`: nobody calls without a key,
    though there be none that opens anything. `refused_by_digest`: keys that once did, and what is told to whoever sends one.
    `cache`: of what is kept because a request asks for it. `auto`: the chain of all targets, None where there are none.
    `keys_problem`: why the runtime keys could not be read. `keys_change_ms`: when the next key ends by itself.
    """

    hash: str
    path: Path | None
    data_dir: Path
    server: ServerSettings
    admin_token: Secret | None
    metrics_token: Secret | None
    auth_none: bool
    providers: Mapping[str, Provider]
    chains: Mapping[str, Chain]
    wildcards: tuple[tuple[str, ChainTemplate], ...]
    clients: Mapping[str, ClientSettings]
    clients_by_digest: Mapping[bytes, ClientSettings]
    warnings: tuple[str, ...]
    files: tuple[Path, ...]
    known_secrets: tuple[Secret, ...]
    direct: Callable[[str, str], Target]
    """(provider, upstream model) -> the target with every default applied, whether the provider is enabled or not."""
    budget: Budget | None = None
    departments: Mapping[str, Budget] = field(default_factory=dict)
    agents: Mapping[str, Budget] = field(default_factory=dict)
    key_pepper: Secret | None = None
    keyring: Keyring = NO_KEYS
    refused_by_digest: Mapping[bytes, str] = field(default_factory=dict)
    needs_key: bool = False
    keys_problem: str | None = None
    keys_change_ms: int | None = None
    retention: Retention = Retention()
    ledger: LedgerSettings = LedgerSettings()
    health: HealthSettings = field(default_factory=HealthSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    auto: Chain | None = None
    resolve: Callable[[str], Chain | None] = field(init=False, repr=False)
    """What a model name means: an exact chain, else a direct target of an enabled provider, else `auto`, else the longest matching
    wildcard, else None. The same name gives the same Chain object, as long as it is among the 4,096 last used."""

    def __repr__(self) -> str:
        """Nothing of what is in it: a variable, and so a secret, may stand anywhere in the file."""
        return f"Settings({self.hash})"

    def __post_init__(self) -> None:
        memo = lru_cache(maxsize=MAX_MEMOISED_MODELS)(self._resolve)
        object.__setattr__(self, "resolve", lambda model: memo(model) if len(model) <= MAX_MODEL_NAME else None)

    def _resolve(self, model: str) -> Chain | None:
        if (chain := self.chains.get(model)) is not None:
            return chain
        chain = self._open_ended(model)
        # some formats have the model in their path, where a part like this would lead elsewhere under the provider's address
        if chain is not None and any(not _DOTS.isdisjoint(target.upstream_model.split("/")) for target in chain.targets):
            return None
        return chain

    def _open_ended(self, model: str) -> Chain | None:
        name, slash, upstream_model = model.partition("/")
        provider = self.providers.get(name) if slash and upstream_model else None
        if provider is not None and provider.enabled:
            return Chain("direct", (self.direct(name, upstream_model),), direct=True)
        if model == AUTO and self.auto is not None:
            return self.auto
        for pattern, template in self.wildcards:
            if (part := matched_part(pattern, model)) is not None:
                return template.make(part)
        return None

    def listed_models(self) -> list[tuple[str, str]]:
        """(id, owned_by): in file order the chains that have an enabled target, then the direct targets that they name."""
        targets = {target.name: target for chain in self.chains.values() for target in chain.targets if usable(target)}
        chains = [name for name, chain in self.chains.items() if any(map(usable, chain.targets))]
        return [(name, "tollbridge") for name in chains] + [
            (name, target.provider.name) for name, target in targets.items() if name not in self.chains and target.answer is None
        ]

    def gates(self) -> dict[str, QualitySettings]:
        """The chains whose answers are measured, by the name that they have in the file."""
        chains = [(chain.name, chain.quality) for chain in self.chains.values()]
        found = [*chains, *((template.name, template.quality) for _, template in self.wildcards)]
        return {name: quality for name, quality in found if quality is not None}

    def secrets(self) -> list[str]:
        """Every secret value, for redaction."""
        return [secret.reveal() for secret in self.known_secrets]


_DOTS = frozenset((".", ".."))


def usable(target: Target) -> bool:
    """Neither the target nor its provider is disabled."""
    return target.disabled is None and target.provider.enabled


def fingerprint(value: object) -> str:
    """12 hex digits that are equal for equal configurations; a secret counts by its own fingerprint."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:12]


def _canonical(value: Any) -> str:
    match value:
        case None | str() | int() | float():  # nearly all there is; to find that it is no Mapping takes longer than the rest
            return repr(value)
        case Secret():
            return value.fingerprint()
        case Mapping():  # order counts: it is the file's
            return "{" + ",".join(f"{key!r}:{_canonical(item)}" for key, item in value.items()) + "}"
        case tuple() | list():
            return "[" + ",".join(map(_canonical, value)) + "]"
        case frozenset():
            return "<" + ",".join(sorted(map(_canonical, value))) + ">"
        case _ if is_dataclass(value):
            return "(" + ",".join(_canonical(getattr(value, item.name)) for item in fields(value)) + ")"
        case _:
            return repr(value)
