"""The grammar of `providers.yaml`, as typed, frozen models. Unknown keys are refused.

The descriptions and examples here are what an editor shows (`tollbridge schema`), what a fault advises and what
`docs/configuration.md` is held to. What is written in the file may be left out nearly everywhere: `None` means "not written", and
`resolve.py` lays the levels over each other.
"""

# annotations are objects here and not texts, which pydantic would have to compile one by one

import re
import typing
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from inspect import Signature, signature
from typing import Annotated, Any, Literal, NoReturn, TypeVar
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from proxy.core.alerts import ALERT_KINDS

DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
SIZE_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
MAX_DURATION_S = 366 * 86400.0
MAX_ZONE_CHARS = 64  # looking for a zone takes a step for each slash in its name
MAX_SIZE_BYTES = 1 << 40
AGE_UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0, "y": 365 * 86400.0}
MAX_AGE_S = 100 * AGE_UNITS["y"]

DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|d)")
AGE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(h|d|w|y)")
MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9:.]{5,15}(Z|[+-][0-9]{2}:[0-9]{2})?)?")
PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,4})?) ?%")
PERCENTILE = re.compile(r"p[5-9][0-9]")
SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?(B|KB|MB|GB|KiB|MiB|GiB)")


F = TypeVar("F", bound=Callable[..., Any])
_NO_PARAMETERS = Signature()


def signed(function: F, its: Signature | None = None) -> F:
    """pydantic asks for the signature of a validator, and of what makes a default, wherever one is used: to find it out takes longer than
    all else that it does there."""
    setattr(function, "__signature__", signature(function) if its is None else its)  # noqa: B010 - no attribute that mypy knows
    return function


def parse_duration(value: object) -> float:
    """`"250ms"` -> 0.25. Seconds. Raises PydanticCustomError, which has the advice in its message."""
    found = DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise PydanticCustomError("unit", "a duration is needed (write a number with its unit: 250ms, 3s, 2m or 1h)")
    seconds = float(found[1]) * DURATION_UNITS[found[2]]
    if seconds > MAX_DURATION_S:
        raise PydanticCustomError("unit", "longer than a year (write at most 366d)")
    return seconds


@signed
def parse_timeout(value: object) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise PydanticCustomError("unit", "no time at all (write a duration above zero, such as 3s)")
    return seconds


def parse_size(value: object) -> int:
    """`"32MiB"` -> 33554432. Bytes. Raises PydanticCustomError."""
    found = SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise PydanticCustomError("unit", "a size is needed (write a number with its unit: 512KiB, 32MiB or 1GiB)")
    size = int(Decimal(found[1]) * SIZE_UNITS[found[2]])
    if not 0 < size <= MAX_SIZE_BYTES:
        raise PydanticCustomError("unit", "not a useful size (write something between 1B and 1024GiB)")
    return size


def parse_age(value: object) -> float:
    """`"2y"` -> 63072000.0. Seconds, of at least an hour: how long something is kept. Raises PydanticCustomError."""
    found = AGE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise PydanticCustomError("unit", "a time is needed (write a number with its unit: 48h, 90d, 8w or 2y)")
    seconds = float(found[1]) * AGE_UNITS[found[2]]
    if not 3600 <= seconds <= MAX_AGE_S:
        raise PydanticCustomError("unit", "not a useful time to keep anything (write something between 1h and 100y)")
    return seconds


def parse_moment(value: object) -> float:
    """A date (its first moment in UTC) or RFC 3339: seconds since 1970. Raises PydanticCustomError."""
    try:
        if not isinstance(value, str) or not MOMENT.fullmatch(value.strip()):
            raise ValueError
        found = datetime.fromisoformat(value.strip())
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise PydanticCustomError("unit", "a date is needed (write 2027-01-31 or 2027-01-31T12:00:00Z)") from None


def parse_percent(value: object) -> float:
    """`"5%"` -> 0.05; a bare number is a share. Raises PydanticCustomError."""
    found = PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    share = float(found[1]) / 100 if found else value if isinstance(value, int | float) and not isinstance(value, bool) else -1.0
    if not 0 <= share <= 1:
        raise PydanticCustomError("unit", "a share is needed (write something between 0% and 100%, such as 5%)")
    return share


def parse_lateness(value: object) -> str | float:
    """`"p95"` as it is, `"800ms"` -> 0.8. Raises PydanticCustomError."""
    if isinstance(value, str) and PERCENTILE.fullmatch(value.strip()):
        return value.strip()
    try:
        return parse_timeout(value)
    except PydanticCustomError:
        raise PydanticCustomError("unit", "a percentile or a time is needed (write p95, or such as 800ms)") from None


def parse_zone(value: object) -> str:
    """An IANA name. Raises PydanticCustomError."""
    try:
        return ZoneInfo(value).key if isinstance(value, str) and 0 < len(value) <= MAX_ZONE_CHARS else _no_zone()
    except (ValueError, OSError, LookupError):
        return _no_zone()


def _no_zone() -> NoReturn:
    raise PydanticCustomError("zone", "no time zone is called that")


@signed
def _no_bool(value: object) -> object:
    """Python takes `true` for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "a number is needed")
    return value


def _word(value: object) -> object:
    """429 is a number in YAML and a word in `failover_on`."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _text_schema(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": [example]})


Delay = Annotated[float, BeforeValidator(parse_duration), _text_schema(r"^([0-9.]+ ?(ms|s|m|h|d)|.*\$\{.*)$", "2s")]
Timeout = Annotated[float, BeforeValidator(parse_timeout), _text_schema(r"^([0-9.]+ ?(ms|s|m|h|d)|.*\$\{.*)$", "3s")]
Size = Annotated[int, BeforeValidator(parse_size), _text_schema(r"^([0-9.]+ ?([KMG]i?)?B|.*\$\{.*)$", "32MiB")]
Age = Annotated[float, BeforeValidator(parse_age), _text_schema(r"^([0-9.]+ ?(h|d|w|y)|.*\$\{.*)$", "90d")]
Moment = Annotated[float, BeforeValidator(parse_moment), _text_schema(r"^([0-9]{4}-[0-9]{2}-[0-9]{2}.*|.*\$\{.*)$", "2027-01-31")]
Zone = Annotated[str, BeforeValidator(parse_zone)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_no_bool)]
Usd = Annotated[Decimal, Field(ge=0, le=10**9, allow_inf_nan=False), BeforeValidator(_no_bool)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Share = Annotated[float, Field(gt=0, le=1), BeforeValidator(_no_bool)]
Portion = Annotated[float, Field(ge=0, le=1), BeforeValidator(_no_bool)]
Weight = Annotated[float, Field(ge=0, le=10**6), BeforeValidator(_no_bool)]
Percent = Annotated[float, BeforeValidator(parse_percent), _text_schema(r"^([0-9.]+ ?%|.*\$\{.*)$", "5%")]
Lateness = Annotated[
    str | float, BeforeValidator(parse_lateness), _text_schema(r"^(p[0-9]{2}|[0-9.]+ ?(ms|s|m)|.*\$\{.*)$", "p95")
]
Factor = Annotated[float, Field(gt=1, le=1000), BeforeValidator(_no_bool)]
SeverityWord = Literal["info", "warning", "error"]


def optional(description: str, example: Any, default: Any = None) -> Any:
    """A key that may be left out."""
    return Field(default, description=description, examples=[example])


def section(description: str, kind: Any = dict) -> Any:
    """A mapping or list that may be left out, or be empty in the file."""
    # constructed, not validated, so that pydantic builds no validator for each section besides the file's own
    empty = getattr(kind, "model_construct", kind)

    def make() -> Any:
        return empty()

    return Field(default_factory=signed(make, _NO_PARAMETERS), description=description)


def required(description: str, example: Any) -> Any:
    return Field(description=description, examples=[example])


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_nothing(cls, value: Any) -> Any:
        """`clients:` with all its lines commented out is an empty mapping, not a fault."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            return value
        fields = cls.model_fields
        return {
            name: item
            for name, item in value.items()
            if item is not None or name not in fields or fields[name].default_factory is None
        }

    def written(self, *, but: frozenset[str] = frozenset()) -> dict[str, Any]:
        """As plain data, without the keys `but`. For `model_dump` pydantic would build each kind of section anew, which takes a start as
        long as reading the file."""
        return {name: _plain(value) for name, value in self if name not in but}


def _plain(value: Any) -> Any:
    match value:
        case Section():
            return value.written()
        case dict():
            return {name: _plain(inner) for name, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
        case _:
            return value


class TimeoutsSection(Section):
    """The four clocks of an attempt. Durations carry units."""

    connect: Timeout | None = optional("Until the connection stands, TLS included. Default 3s.", "3s")
    first_token: Timeout | None = optional(
        "Until the first content. Default 60s for streams, 300s for whole answers and for reasoning models.", "60s"
    )
    between_tokens: Timeout | None = optional("The longest silence inside a stream. Default 30s.", "30s")
    total: Timeout | None = optional("For the whole request, with every failover. Default 600s.", "600s")


class CircuitSection(Section):
    """When a target counts as broken and is left alone for a while."""

    failures: Count | None = optional("This many faults in a row open the circuit. Default 5.", 5)
    window: Timeout | None = optional("The time over which the error rate is taken. Default 30s.", "30s")
    error_rate: Annotated[float, Field(gt=0, le=1), BeforeValidator(_no_bool)] | None = optional(
        "This share of faults in the window opens the circuit. Default 0.5.", 0.5
    )
    min_requests: Count | None = optional("Fewer requests in the window say nothing about the rate. Default 20.", 20)
    open: Timeout | None = optional("How long it stays open the first time; doubled each time after. Default 5s.", "5s")
    open_max: Timeout | None = optional("The longest that it stays open. Default 30s.", "30s")


class Tuning(Section):
    """What can be said on every level: `defaults`, a provider, a model, a chain, a target. The nearest to the target wins."""

    timeouts: TimeoutsSection = section("Clocks of an attempt.", TimeoutsSection)
    retries: Annotated[int, Field(ge=0, le=10), BeforeValidator(_no_bool)] | None = optional(
        "Retries at the same target, made only when it is the one usable target. Default 1.", 1
    )
    circuit: CircuitSection = section("When a target counts as broken.", CircuitSection)


class DrainSection(Section):
    """How the server stops."""

    delay: Delay | None = optional(
        "How long new requests are still taken, for load balancers to notice; none on SIGINT. Default 2s.", "2s"
    )
    timeout: Delay | None = optional("How long running requests may take to end by themselves. Default 30s.", "30s")


class PerAddressSection(Section):
    """What one address may have open. An IPv6 address counts as its /64."""

    connections: Count | None = optional("Connections at one time. Default: no limit.", 200)
    in_flight: Count | None = optional("Requests at one time. Default: no limit.", 100)


class ServerSection(Section):
    """Where the proxy listens, and its limits. A change of host or port needs a restart."""

    host: Text | None = optional("The address to listen on. Default 127.0.0.1.", "127.0.0.1")
    port: Annotated[int, Field(ge=0, le=65535), BeforeValidator(_no_bool)] | None = optional(
        "The port to listen on; 0 takes any free one. Default 8080.", 8080
    )
    max_body: Size | None = optional("The largest request body. Default 32MiB.", "32MiB")
    max_in_flight: Count | None = optional(
        "Requests at one time, of all callers together, in each worker; more are refused. Default 4096.", 4096
    )
    max_wait: Delay | None = optional(
        "How long a request may wait for the proxy itself: while it is busier than that, new ones are refused; 0s: never. Default 100ms.",
        "100ms",
    )
    per_ip: PerAddressSection = section("What one address may have open. Default: no limit.", PerAddressSection)
    trusted_proxies: list[Text] = section(
        "Addresses or networks of reverse proxies whose `X-Forwarded-For` is believed, such as `10.0.0.0/8`. Default: none.", list
    )
    allowed_hosts: list[Text] = section(
        "The `Host` names that are answered, such as `llm.example.com`; `/livez` and `/readyz` answer to any. Default: all.", list
    )
    cors_origins: list[Text] = section("Origins whose pages may call, such as `https://app.example.com`. Default: none.", list)
    log_level: Literal["debug", "info", "warning", "error"] | None = optional("How much is logged. Default info.", "info")
    drain: DrainSection = section("What happens on SIGTERM.", DrainSection)


class AuthSection(Section):
    """Tokens of the operator. A variable that is not set leaves a token unset."""

    admin_token: str | None = optional(
        "Opens /api, /dashboard and /metrics. Unset: they answer on loopback only.", "${TOLLBRIDGE_ADMIN_TOKEN}"
    )
    metrics_token: str | None = optional("Opens /metrics and nothing else.", "${TOLLBRIDGE_METRICS_TOKEN}")
    key_pepper: str | None = optional(
        "Mixed into the digests of runtime keys: whoever gets hold of `data_dir` alone cannot even test a key.",
        "${TOLLBRIDGE_KEY_PEPPER}",
    )


class PriceSection(Section):
    """USD per million tokens. What is not written costs what its kind costs: cached and audio input as input, and so on."""

    input: Usd = required("Input tokens.", 0.20)
    output: Usd = required("Output tokens.", 0.60)
    cached_input: Usd | None = optional("Input tokens read from the provider's cache. Default: as input.", 0.05)
    cache_write: Usd | None = optional("Input tokens written to the provider's cache. Default: as input.", 0.25)
    reasoning: Usd | None = optional("Reasoning tokens. Default: as output.", 0.60)
    input_audio: Usd | None = optional("Audio input tokens. Default: as input.", 2.50)
    output_audio: Usd | None = optional("Audio output tokens. Default: as output.", 5.00)


class BudgetSection(Section):
    """What may be spent in a period. Periods are those of UTC."""

    usd: Usd = required("The limit, in USD.", 50)
    per: Literal["day", "month", "once"] = optional("The period. Default month.", "month", "month")
    hard: bool = optional(
        "What is over it is refused with 429 budget_exceeded, or goes to the next target; `false` only tells. Default true.",
        True,
        True,
    )


class LimitsSection(Section):
    """What is asked in any minute, and at one time."""

    in_flight: Count | None = optional("Requests at one time. Default: no limit.", 64)
    rpm: Count | None = optional("Requests per minute. Default: no limit.", 30)
    tpm: Count | None = optional("Tokens per minute. Default: no limit.", 12000)


class QuotaSection(Section):
    """What a provider gives in a period. One of `requests` and `tokens`."""

    requests: Count | None = optional("So many requests.", 14400)
    tokens: Count | None = optional("So many tokens, of input and output.", 500000)
    per: Literal["day", "month", "once"] = required("The period.", "day")
    time_zone: Zone = optional("Where the period begins anew, by its IANA name. Default UTC.", "America/Los_Angeles", "UTC")
    hour: Annotated[int, Field(ge=0, le=23), BeforeValidator(_no_bool)] = optional(
        "The hour at which it begins anew, there. Default 0.", 0, 0
    )
    each_key: bool = optional("`true`: every key has as much; else they share it. Default false.", False, False)


class HealthSection(Section):
    """How a provider is checked, on what it offers for nothing. What is not written is as in the section of the file."""

    interval: Timeout | None = optional("How often. Default 60s.", "60s")
    timeout: Timeout | None = optional("How long an answer may take. Default 10s.", "10s")
    slow: Timeout | None = optional("An answer that takes longer makes the provider degraded. Default 2s.", "2s")
    lightest_call: bool | None = optional(
        "`true`: where there is no free check, a completion of one token is asked for, which costs money. Default false.", False
    )


class ModelSection(Tuning):
    """A model at a provider: what the catalogue and the price data do not know, or have wrong. The name may hold one `*`."""

    enabled: bool = optional("`false` takes the model out of every chain. Default true.", True, True)
    context: Count | None = optional("The context window, in tokens.", 131072)
    max_output: Count | None = optional("The longest answer, in tokens.", 32768)
    capabilities: list[Text] | None = optional("What the model can do; what is not listed is ruled out.", ["tools", "vision"])
    price: PriceSection | None = optional(
        "USD per million tokens; wins over `prices` and the price data.", {"input": 0.59, "output": 0.79}
    )
    limits: LimitsSection = section("What the model is asked, for each key.", LimitsSection)
    quality: Annotated[float, Field(ge=0, le=100), BeforeValidator(_no_bool)] | None = optional(
        "How good its answers are held to be, 0 to 100; counts under `strategy: score`.", 78
    )
    expected_first_token: Timeout | None = optional(
        "How long the first content usually takes; stands in until it is known.", "300ms"
    )


Dialect = Literal["openai", "azure", "anthropic", "gemini", "vertex", "cohere", "ollama", "bedrock"]


class ProviderSection(Tuning):
    """Who serves models. A name that the catalogue knows needs nothing; any other needs `dialect` and `base_url`."""

    enabled: bool = optional("`false` leaves the provider out of every chain. Default true.", True, True)
    dialect: Dialect | None = optional("The wire format that it speaks.", "openai")
    base_url: Text | None = optional(
        "What stands before the dialect's own path; for `openai` it usually ends in /v1.", "http://10.0.0.5:8000/v1"
    )
    api_key: str | None = optional("Its key. Default: the variables that the catalogue names.", "${GROQ_API_KEY}")
    api_keys: list[str] | None = optional("Several keys, used in turn; a spent one is set aside.", ["${KEY_A}", "${KEY_B}"])
    api_version: Text | None = optional("Azure: the version of the older, per-deployment addresses.", "2024-10-21")
    headers: dict[str, str] = section("Headers sent along with every request. Example: `{x-team: search}`.")
    transport: Literal["native", "httpx"] | None = optional(
        "`native` is the quick HTTP/1.1 client; `httpx` is for HTTP/2, SOCKS and odd proxies. Default native.", "native"
    )
    proxy: Text | None = optional(
        "An HTTP proxy on the way there; the environment's is not used.", "http://proxy.example.com:3128"
    )
    ca_file: Text | None = optional("Certificates to trust instead of the system's (PEM); relative to the file.", "./ca.pem")
    allow_private: bool = optional(
        "`true` allows a `base_url` on a cloud's metadata addresses, which is refused otherwise. Default false.", False, False
    )
    prices: dict[str, PriceSection] = section(
        "USD per million tokens, by model; a name may hold one `*`, the longest match wins."
    )
    models: dict[str, ModelSection] = section("What is special about single models.")
    limits: LimitsSection = section("What the provider is asked, for each key.", LimitsSection)
    budget: BudgetSection | None = optional("What may be spent at this provider.", {"usd": 50, "per": "month"})
    health: HealthSection = section("How it is checked.", HealthSection)
    quotas: list[QuotaSection] = section("What it gives in a period, such as a free tier's.", list)
    region: Text | None = optional(
        "Bedrock: the AWS region, by default AWS_REGION or AWS_DEFAULT_REGION. Elsewhere a tag that a request may require.",
        "us-east-1",
    )
    project: Text | None = optional("Vertex: the Google Cloud project. Default: GOOGLE_CLOUD_PROJECT.", "my-project")
    location: Text | None = optional("Vertex: the location. Default: GOOGLE_CLOUD_LOCATION, else global.", "europe-west1")
    drain_on_disconnect: bool = optional(
        "`true` reads a stream to its end though its caller has left, where the provider bills all of it. Default false.",
        False,
        False,
    )


class TargetSection(Tuning):
    """The long form of a target. One of `target` and `static`."""

    target: Text | None = optional("`provider/model`, split at the first `/`.", "openai/gpt-5")
    static: Text | None = optional(
        "Instead of a target: a text that is the answer, when nobody else gives one.", "Please try later."
    )
    weight: Weight = optional("Its share under `strategy: weighted`; 0 only when no other is left. Default 1.", 2, 1.0)


def _text_or_mapping(value: object) -> str:
    return "«mapping»" if isinstance(value, dict | Section) else "«text»"


def _list_or_mapping(value: object) -> str:
    return "«mapping»" if isinstance(value, dict | Section) else "«list»"


AlertKindWord = Annotated[str, Field(pattern="^(" + "|".join(ALERT_KINDS) + ")$"), WithJsonSchema({"enum": list(ALERT_KINDS)})]
OneTarget = Annotated[
    Annotated[Text, Tag("«text»")] | Annotated[TargetSection, Tag("«mapping»")], Discriminator(_text_or_mapping)
]
FailoverWord = Annotated[
    Literal["429", "5xx", "timeout", "connection", "auth", "not_found", "policy"],
    BeforeValidator(_word),
    WithJsonSchema({"enum": [429, "5xx", "timeout", "connection", "auth", "not_found", "policy"]}),
]


class WeightsSection(Section):
    """How much each part of a score counts; only their proportion matters."""

    capability: Weight | None = optional("How well it can do what is asked for. Default 30.", 30)
    cost: Weight | None = optional("What the answer is expected to cost. Default 25.", 25)
    performance: Weight | None = optional("How soon the answer is expected. Default 25.", 25)
    availability: Weight | None = optional("How often it answers. Default 20.", 20)


class CacheSection(Section):
    """Answers that are kept and given again. What is not written is as in the section of the file."""

    enabled: bool | None = optional("`false`: none, though a request asks for it. Default true.", True)
    ttl: Timeout | None = optional("How long an answer is kept. Default 10m.", "10m")
    max_entries: Count | None = optional("How many answers at most. Default 10000.", 10000)
    max_bytes: Size | None = optional("How large all of them at most. Default 64MiB.", "64MiB")
    store: Literal["memory", "sqlite"] | None = optional(
        "Where: `memory`, of each worker its own, or `sqlite`, a file in `data_dir` that survives a restart. Default memory.",
        "memory",
    )
    every: bool | None = optional(
        "`true`: whatever the temperature; else only what is asked for at temperature 0. Default false.", False
    )
    shared: bool | None = optional("`true`: a client may be given what another one asked for. Default false.", False)


class QualitySection(Section):
    """How good a whole answer must be, by measures that quality.md explains."""

    min: Portion = required("An answer that measures below has the next target asked, too: 0 to 1.", 0.6)
    judge: Text | None = optional("A chain or `provider/model` that is asked for its opinion as well.", "openai/gpt-5-mini")
    judge_budget: BudgetSection | None = optional("What the judge may cost.", {"usd": 5, "per": "month"})


class HedgeSection(Section):
    """When a second target is asked as well, since the first is late with its first token."""

    after: Lateness = optional("A percentile of what is usual there (p50 to p99), or a time. Default p95.", "p95", "p95")
    max_extra_cost: Percent = optional("The share of requests that may be asked twice, over any hour. Default 5%.", "5%", 0.05)


class ChainSection(Tuning):
    """The long form of a chain."""

    targets: list[OneTarget] = required("Targets, tried in this order.", ["groq/llama-3.3-70b-versatile", "openai/gpt-5"])
    strategy: Literal["order", "weighted", "round_robin", "least_busy", "fastest", "cheapest", "score", "sticky"] = optional(
        "How the order of the targets is chosen, see routing.md. Default order.", "order", "order"
    )
    failover_on: list[FailoverWord] | None = optional(
        "What leads to the next target: 429, 5xx, timeout, connection, auth, not_found, policy. Default: all but policy.",
        ["429", "5xx", "timeout"],
    )
    strict: bool = optional(
        "`true` skips a target rather than dropping a parameter that it does not know. Default false.", False, False
    )
    on_break: Literal["error", "continue"] = optional(
        "What becomes of a stream that breaks after its first content: an `error` event, or the next target is to `continue` it. "
        "Default error.",
        "continue",
        "error",
    )
    weights: WeightsSection = section("What counts under `strategy: score`.", WeightsSection)
    cache: CacheSection | None = optional("Answers that are kept and given again.", {"ttl": "1h"})
    quality: QualitySection | None = optional("How good a whole answer must be.", {"min": 0.6})
    hedge: HedgeSection | None = optional(
        "When a second target is asked as well, since the first is late.", {"after": "p95", "max_extra_cost": "5%"}
    )


OneChain = Annotated[
    Annotated[list[OneTarget], Tag("«list»")] | Annotated[ChainSection, Tag("«mapping»")],
    Discriminator(_list_or_mapping),
]


class ClientSection(Section):
    """Who may call."""

    key: str | None = optional("Its key, sent as Bearer, x-api-key or api-key.", "${SEARCH_AGENT_KEY}")
    keys: list[str] | None = optional("Several keys, for changing one without a gap.", ["${OLD_KEY}", "${NEW_KEY}"])
    department: Text | None = optional("Whom its use is counted for.", "research")
    agent: Text | None = optional("The agent that its use is counted for.", "search")
    chains: list[Text] | None = optional("The chains that it may use, and no direct targets. Default: everything.", ["smart"])
    models: list[Text] | None = optional(
        "The model names that it may ask for; a `*` stands for anything. Default: everything.", ["gpt-*"]
    )
    expires: Moment | None = optional(
        "Until when its keys open anything: a date (its first moment in UTC) or RFC 3339.", "2027-01-31"
    )
    budget: BudgetSection | None = optional("What it may spend.", {"usd": 50, "per": "month"})
    limits: LimitsSection = section("What it may ask.", LimitsSection)


class ShareSection(Section):
    """A department or an agent."""

    budget: BudgetSection | None = optional("What it may spend.", {"usd": 100, "per": "month"})


class RetentionSection(Section):
    """When what is old is thrown away."""

    requests: Age | None = optional("Rows of requests and attempts. Default 90d.", "90d")
    rollups: Age | None = optional("Sums by hour and day. Default 2y.", "2y")
    health: Age | None = optional("Checks of providers, and alerts that are over. Default 30d.", "30d")


class LedgerSection(Section):
    """What of the ledger survives what, and what happens when it cannot be written."""

    fsync: Literal["process", "group", "strict"] | None = optional(
        "What a record survives: `process` the end of the process, `group` also a power failure after 50 ms, `strict` also one "
        "before its answer is out. Default process.",
        "group",
    )
    on_full: Literal["refuse", "serve"] | None = optional(
        "A request whose record cannot be written is refused with 503, or served without one and counted. Default refuse.",
        "serve",
    )


class RatesSection(Section):
    """Shares, above which something is told."""

    warning: Share | None = optional("From here on a warning.", 0.05)
    error: Share | None = optional("From here on an error.", 0.2)


class FactorsSection(Section):
    """How many times what is usual."""

    warning: Factor | None = optional("From here on a warning.", 2)
    error: Factor | None = optional("From here on an error.", 4)


class LagSection(Section):
    """How far behind."""

    warning: Timeout | None = optional("From here on a warning.", "30s")
    error: Timeout | None = optional("From here on an error.", "5m")


class DestinationSection(Section):
    """Where alerts go. One of `webhook` and `apprise`."""

    webhook: Text | None = optional("An address that each alert is posted to, as JSON.", "${SLACK_URL}")
    apprise: Text | None = optional(
        "Whatever else Apprise reaches, such as e-mail (needs the extra `alerts`).", "mailtos://user:pass@example.com"
    )
    shape: Literal["json", "slack"] | None = optional(
        "What a webhook's body looks like. Default: slack for hooks.slack.com, else json.", "slack"
    )
    least: SeverityWord = optional(
        "What is less than this is not sent: info, warning or error. Default warning.", "error", "warning"
    )


class AlertsSection(Section):
    """From when on something is told. The kinds are in alerts.md."""

    budget: list[Annotated[float, Field(gt=0, le=10), BeforeValidator(_no_bool)]] | None = optional(
        "Shares of a budget; the last is an error, the others warnings. Default [0.8, 1.0].", [0.8, 1.0]
    )
    quota: list[Share] | None = optional("Shares of a quota, likewise. Default [0.75, 0.9, 0.95].", [0.75, 0.9, 0.95])
    error_rate: RatesSection = section("The share of a provider's attempts that fails. Default 0.05 and 0.2.", RatesSection)
    failover_rate: RatesSection = section(
        "The share of a chain's requests that needed another target than the first. Default 0.1 and 0.5.", RatesSection
    )
    first_token: FactorsSection = section(
        "How many times its usual time a provider's first token takes. Default 2 and 4.", FactorsSection
    )
    ledger_lag: LagSection = section("How far the tables are behind the journal. Default 30s and 5m.", LagSection)
    rate_limit: Timeout | None = optional("How soon a provider's limit will be hit at the present rate. Default 5m.", "5m")
    off: list[AlertKindWord] = section("Kinds that are not told.", list)
    severity: dict[AlertKindWord, SeverityWord] = section("Kinds that are of another severity than their own.")
    to: list[DestinationSection] = section("Where alerts go, besides the log.", list)


OneAuth = Annotated[
    Annotated[Literal["none"], Tag("«text»")] | Annotated[AuthSection, Tag("«mapping»")], Discriminator(_text_or_mapping)
]


class File(Section):
    """providers.yaml: which providers there are, what model names mean, and who may call."""

    server: ServerSection = section("Where the proxy listens, and its limits.", ServerSection)
    data_dir: Text | None = optional("The folder of the ledger and its journal, relative to the file. Default ./data.", "./data")
    auth: OneAuth = section("Tokens of the operator; `none` allows a start without any off loopback.", AuthSection)
    defaults: Tuning = section("Clocks, retries and circuit of every target, unless written nearer to it.", Tuning)
    providers: dict[str, ProviderSection] = section("Who serves models, by name.")
    chains: dict[str, OneChain] = section("What a model name means: targets in order. One `*` in the name matches anything.")
    clients: dict[str, ClientSection] = section(
        "Who may call, by name. Once one is listed, every /v1 route needs a client's key."
    )
    budget: BudgetSection | None = optional("What may be spent altogether.", {"usd": 500, "per": "month", "hard": False})
    departments: dict[str, ShareSection] = section("Departments and their budgets.")
    agents: dict[str, ShareSection] = section("Agents and their budgets.")
    retention: RetentionSection = section("How long what is kept.", RetentionSection)
    ledger: LedgerSection = section("What a record survives, and what happens when none can be written.", LedgerSection)
    health: HealthSection = section("How providers are checked.", HealthSection)
    alerts: AlertsSection = section("From when on something is told, and to whom.", AlertsSection)
    cache: CacheSection | None = optional("Answers of every chain that are kept and given again.", {"ttl": "10m"})


def step(kind: Any, element: str | int) -> Any:
    """The type behind one element of a path: the key of a section, the key of a mapping, the index of a list, the tag of a choice."""
    for arm in arms(kind):
        if isinstance(arm, type) and issubclass(arm, Section):
            if (name := attribute(arm, element)) is not None:
                return typing.get_type_hints(arm, include_extras=True)[name]
        elif (origin := typing.get_origin(arm)) in (dict, list) and isinstance(element, int) == (origin is list):
            return typing.get_args(arm)[-1]
    return None


def attribute(model: type[Section], key: str | int) -> str | None:
    """What a key of the file is called in the model: the same, but for the words that Python keeps for itself."""
    fields = model.model_fields
    if key in fields and fields[str(key)].alias is None:
        return str(key)
    return next((name for name, field in fields.items() if field.alias == key), None)


def arms(kind: Any) -> list[Any]:
    """The types that a value may have, without annotations and None."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return arms(typing.get_args(kind)[0])
    if origin is typing.Union or type(kind).__name__ == "UnionType":
        return [inner for arm in typing.get_args(kind) for inner in arms(arm)]
    return [] if kind in (None, type(None)) else [kind]


def section_at(path: tuple[str | int, ...], root: type[Section] = File) -> type[Section] | None:
    """The model that describes the mapping at a path of the file."""
    kind: Any = root
    for element in path:
        kind = step(kind, element)
    return next((arm for arm in arms(kind) if isinstance(arm, type) and issubclass(arm, Section)), None)
