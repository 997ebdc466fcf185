"""Where a request can go: providers, their credentials, the targets of a chain. All frozen; made by `config/resolve.py`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from proxy.core.limits import NO_LIMITS, Budget, HealthSettings, Quota, RateLimits


class Secret:
    """A string that never shows itself: `repr`, `str`, formatting and JSON give `***`. `reveal()` is the only way in."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not value:
            raise ValueError("a secret cannot be empty")
        self._value = value

    def reveal(self) -> str:
        return self._value

    def tail(self) -> str:
        """At most the last four characters, and none of a short secret: for start-up banners."""
        return "…" + self._value[-4:] if len(self._value) >= 12 else "…"

    def fingerprint(self) -> str:
        """Eight hex digits that name the secret in ledger, metrics and state without telling it."""
        return hashlib.sha256(self._value.encode()).hexdigest()[:8]

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class Credential:
    """One key of a provider. `id` is its fingerprint, or `none` for a provider that takes no key (then `secret` is None)."""

    id: str
    secret: Secret | None


NO_CREDENTIAL = Credential("none", None)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `first_token_s` None means the default for the kind of request: 60 for streams, 300 for whole answers."""

    connect_s: float = 3.0
    first_token_s: float | None = None
    between_tokens_s: float = 30.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True)
class CircuitSettings:
    failures: int = 5
    window_s: float = 30.0
    error_rate: float = 0.5
    min_requests: int = 20
    open_s: float = 5.0
    open_max_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens, as written in the file. None: not given (cached_input and the like fall back to input or output)."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None
    input_audio: Decimal | None = None
    output_audio: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Prefix:
    """How a provider is told that a conversation ends with the beginning of the answer, an assistant's message, and that its model is to
    write the rest: fields of that message, fields of the body, and a path of its own. `echoes`: the answer begins with it all the same."""

    message: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = None
    echoes: bool = False


@dataclass(frozen=True, slots=True)
class Quirks:
    """How a provider departs from its dialect; data from the catalogue. Names are top-level request fields.

    `rename`: field -> the name that this provider uses. `drop`: fields that it ignores or that break it, and that are removed (and
    named to the caller). `refuse`: fields whose presence (true, or > 1 for `n`) means that the target cannot serve the request.
    `usage_in_stream`: `stream_options` (ask for it), `always` (comes unasked; `stream_options` is refused) or `never`.
    `reasoning_excluded`: completion_tokens leaves reasoning out (xAI). `developer_role`: the role that stands in for `developer`
    where the provider refuses it, None where it is taken as it is. `drop_in_messages`: fields of messages that it refuses (those that
    an answer had, and that come back with the conversation, above all). `call_id_length`: ids of tool calls must be so many letters
    and digits (Mistral), None where they may be anything. `prefix`: how its models are told to
    go on with a last assistant message; None: nobody says that they do.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    drop: frozenset[str] = frozenset()
    refuse: frozenset[str] = frozenset()
    usage_in_stream: Literal["stream_options", "always", "never"] = "stream_options"
    reasoning_excluded: bool = False
    developer_role: str | None = None
    drop_in_messages: frozenset[str] = frozenset()
    call_id_length: int | None = None
    prefix: Prefix | None = None


FEATURES: Mapping[str, str] = {
    "tools": "functions that the model may call",
    "parallel_tools": "several calls at a time, where that is asked for in so many words",
    "streamed_tools": "calls in a streamed answer",
    "vision": "images in messages",
    "documents": "files in messages",
    "audio": "audio in messages",
    "video": "videos in messages",
    "audio_output": "answers that are spoken",
    "image_output": "answers with images",
    "json_object": "JSON mode",
    "json_schema": "answers that are held to a JSON schema",
    "logprobs": "log-probabilities of tokens",
    "n": "several choices",
    "embeddings": "vectors of texts",
}
"""What a request may need of a target, and a target may lack."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One stanza of `providers:`, completed from the catalogue. `disabled` says why it cannot be used, None when it can.

    `auth_header` is the lower-case header that carries the key, `auth_prefix` what stands before it (`Bearer `, or empty).
    `base_url` has no trailing slash. `price_source` is the provider's id in the price data, None where it has none there.
    `region` is AWS's, or a tag that requests may require; `project` and `location` are Google's. `drain_on_disconnect`: a stream whose
    caller has left is read to its end, for what it costs. `signs`: each call needs a signature or token of its own
    (`upstream/auth.py`). `check_url` tells of the key where the model list does not, `model_list_path` stands under `base_url`; neither
    costs anything. `lacks` names features that none of its models serves, in the words of FEATURES. `limits.in_flight` counts
    for each key and model, `limits.rpm` and `limits.tpm` for each key.
    """

    name: str
    dialect: str
    base_url: str = field(repr=False)  # its path may be a secret
    credentials: tuple[Credential, ...]
    auth_header: str = "authorization"
    auth_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    api_version: str | None = None
    transport: Literal["native", "httpx", "demo", "static"] = "native"
    proxy_url: Secret | None = None
    ca_file: str | None = None
    model_list_path: str | None = None
    check_url: str | None = field(default=None, repr=False)
    quirks: Quirks = field(default_factory=Quirks)
    lacks: frozenset[str] = frozenset()
    price_source: str | None = None
    limits: RateLimits = NO_LIMITS
    budget: Budget | None = None
    quotas: tuple[Quota, ...] = ()
    health: HealthSettings = field(default_factory=HealthSettings)
    region: str | None = None
    project: str | None = None
    location: str | None = None
    signs: bool = False
    drain_on_disconnect: bool = False
    disabled: str | None = None

    @property
    def enabled(self) -> bool:
        return self.disabled is None


@dataclass(frozen=True, slots=True)
class Target:
    """A model at a provider, with every default already applied. `name` is `provider/upstream_model`.

    `label` is what metrics may call the model: its name where the configuration lists it, else `other`.
    `capabilities`: all that it can do, in the words of FEATURES; None: unknown, so only what the provider or the model is known to
    lack (`lacks`) is ruled out. `context` in tokens. `price` overrides the price data. `quirks` are the provider's with the model's
    own laid over them. `weight`: its share under `strategy: weighted`. `quality`: how good its answers are held to be, 0 to 100.
    `expected_first_token_s` stands in until its own are known. `answer`: the text that a static target gives, None for any other.
    """

    provider: Provider
    upstream_model: str
    label: str
    timeouts: Timeouts = field(default_factory=Timeouts)
    circuit: CircuitSettings = field(default_factory=CircuitSettings)
    retries: int = 1
    price: Price | None = None
    context: int | None = None
    max_output: int | None = None
    capabilities: frozenset[str] | None = None
    lacks: frozenset[str] = frozenset()
    quirks: Quirks = field(default_factory=Quirks)
    reasoning: bool = False
    limits: RateLimits = NO_LIMITS
    disabled: str | None = None
    weight: float = 1.0
    quality: float | None = None
    expected_first_token_s: float | None = None
    answer: str | None = None

    @property
    def name(self) -> str:
        return f"{self.provider.name}/{self.upstream_model}"


Strategy = Literal["order", "weighted", "round_robin", "least_busy", "fastest", "cheapest", "score", "sticky"]


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each part of a score counts; only their proportion matters."""

    capability: float = 30.0
    cost: float = 25.0
    performance: float = 25.0
    availability: float = 20.0


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Answers that are kept. `enabled` False: none, though a request asks for it. `every`: whatever the temperature, not only what is
    asked for at 0. `shared`: a client may be given what another one asked for."""

    enabled: bool = True
    ttl_s: float = 600.0
    max_entries: int = 10_000
    max_bytes: int = 64 << 20
    store: Literal["memory", "sqlite"] = "memory"
    every: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class QualitySettings:
    """A whole answer that measures below `min` (0 to 1) has the next target asked as well. `judge`: a model of this proxy that is asked
    for its opinion, None for none; `judge_budget` caps what that may cost."""

    min: float
    judge: str | None = None
    judge_budget: Budget | None = None


@dataclass(frozen=True, slots=True)
class HedgeSettings:
    """When the first content is late, the next target is asked as well. `after`: a percentile of what is usual at the first target (0 to
    1), or `after_s` seconds. `max_extra`: the share of requests that may be asked twice, over any hour."""

    after: float | None = 0.95
    after_s: float | None = None
    max_extra: float = 0.05


FailoverCause = Literal["429", "5xx", "timeout", "connection", "auth", "not_found", "policy"]
STATIC = Provider(
    "static",
    "static",
    "http://static.invalid",  # never connected to
    (NO_CREDENTIAL,),
    transport="static",
    price_source=None,
    lacks=frozenset(("audio_output", "embeddings", "image_output", "json_object", "json_schema", "logprobs", "n")),
)
"""Who gives the canned answers (`Target.answer`). It stands in chains only: nobody configures it or asks how it is."""

DEFAULT_FAILOVER_ON: frozenset[FailoverCause] = frozenset(("429", "5xx", "timeout", "connection", "auth", "not_found"))


@dataclass(frozen=True, slots=True)
class Chain:
    """What a model name means. `name` is the chain's key in the file, also for a wildcard; for a direct target it is `direct`, and for
    `auto` it is that. `cache`, `quality`, `hedge`: None where it is not asked for."""

    name: str
    targets: tuple[Target, ...]
    failover_on: frozenset[FailoverCause] = DEFAULT_FAILOVER_ON
    strict: bool = False
    on_break: Literal["error", "continue"] = "error"
    direct: bool = False
    strategy: Strategy = "order"
    weights: Weights = Weights()
    cache: CacheSettings | None = None
    quality: QualitySettings | None = None
    hedge: HedgeSettings | None = None
