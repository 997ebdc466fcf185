"""What a choice is made from: of the request its `Facts`, of each target an `Option`. Both can be written down and read back.

    request ──▶ Facts ──┐                                       ┌──▶ the order (`strategy.py`)
                        ├──▶ ruled out, with a reason, or Option ┤
    target, its state ──┘                                       └──▶ the trace: every Option, as it was ──▶ `rederive.py`

What is shown is what is decided on: numbers are rounded here, before anything is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Literal, cast

from proxy.core.chat import ChatRequest
from proxy.core.money import nusd_to_usd, usd_to_nusd
from proxy.core.target import FEATURES, Strategy, Target
from proxy.core.wishes import NO_WISHES, Priority, Wishes
from proxy.routing.deployment import Deployment

REGION = "region:"
EXCLUDED = "excluded by the request"
UNKNOWN_WORD = "something required that no target of this chain has"
UNKNOWN_QUALITY = 0.5
MAX_STICKY_CHARS = 65_536
RULED_OUT = (EXCLUDED, "lacks ", "expected ", "no price known")  # how the reasons of `ruled_out` begin


def no_cost(target: Target) -> int | None:
    return None


def configured_context(target: Target) -> int | None:
    return target.context


def no_refusal(target: Target) -> str | None:
    return None


@dataclass(slots=True)
class Facts:
    """Of a request, what its way depends on. `input_tokens` and `output_tokens` are estimates. `sticky` stands for the session, a digest.
    `seed` is 32 random bits, `turn` counts the requests of a chain (None: the chain's own count goes on).

    `expected_cost_nusd` is what the whole request will probably cost at a target, `context_of` how many tokens fit there, both None
    where nobody knows; `refusal` says why a target cannot take this very request, for reasons that are in neither of these.
    """

    needs: frozenset[str] = frozenset()
    wishes: Wishes = NO_WISHES
    input_tokens: int = 0
    output_tokens: int = 0
    sticky: str = ""
    seed: int = 0
    turn: int | None = None
    expected_cost_nusd: Callable[[Target], int | None] = field(default=no_cost, compare=False)
    context_of: Callable[[Target], int | None] = field(default=configured_context, compare=False)
    refusal: Callable[[Target], str | None] = field(default=no_refusal, compare=False)


# -- what is written down of them


def told(facts: Facts) -> dict[str, Any]:
    """`asked` of a request's `extra`: the facts, as JSON. Wishes are to be those that were `heard`."""
    said: dict[str, Any] = {
        "needs": sorted(facts.needs),
        "tokens": facts.input_tokens,
        "output": facts.output_tokens,
        "seed": facts.seed,
        "turn": facts.turn or 0,
        "sticky": facts.sticky,
    }
    wishes = facts.wishes
    wished = {
        "prefer": wishes.prefer,
        "exclude": sorted(wishes.exclude) or None,
        "require": sorted(wishes.require) or None,
        "max_cost_usd": None if wishes.max_cost_nusd is None else nusd_to_usd(wishes.max_cost_nusd),
        "max_latency_s": wishes.max_latency_s,
        "priority": None if wishes.priority == "normal" else wishes.priority,
    }
    if any(value is not None for value in wished.values()):
        said["wishes"] = {name: value for name, value in wished.items() if value is not None}
    return {name: value for name, value in said.items() if value not in (0, "", [])}


def facts_of(asked: Mapping[str, Any]) -> Facts:
    """The other way round; what is not written down is as if nothing had been asked. The three functions are the caller's to add."""
    wished = asked.get("wishes") or {}
    cost = wished.get("max_cost_usd")
    return Facts(
        needs=frozenset(asked.get("needs") or ()),
        wishes=Wishes(
            prefer=wished.get("prefer"),
            exclude=frozenset(wished.get("exclude") or ()),
            require=frozenset(wished.get("require") or ()),
            max_cost_nusd=None if cost is None else usd_to_nusd(Decimal(cost)),
            max_latency_s=wished.get("max_latency_s"),
            priority=cast("Priority", wished.get("priority") or "normal"),
        )
        if wished
        else NO_WISHES,
        input_tokens=asked.get("tokens") or 0,
        output_tokens=asked.get("output") or 0,
        sticky=asked.get("sticky") or "",
        seed=asked.get("seed") or 0,
        turn=asked.get("turn") or 0,
    )


def heard(wishes: Wishes, targets: Iterable[Target]) -> Wishes:
    """What of the wishes means something among these targets. A caller's own words go into no trace: a name that none has is left out, a
    requirement that none meets becomes one that says so."""
    if wishes.prefer is None and not wishes.exclude and not wishes.require:
        return wishes
    targets = list(targets)
    names = {target.name for target in targets} | {target.provider.name for target in targets}
    known = {word for word in wishes.require if word in FEATURES or any(has(target, word) for target in targets)}
    return replace(
        wishes,
        prefer=wishes.prefer if wishes.prefer in names else None,
        exclude=wishes.exclude & names,
        require=frozenset(known if len(known) == len(wishes.require) else known | {UNKNOWN_WORD}),
    )


# -- what rules a target out


def ruled_out(target: Target, facts: Facts, first_token_ms: float | None) -> str | None:
    """Why this request may not go there, whatever its state; None if it may. What it lacks for its features is asked elsewhere."""
    wishes = facts.wishes
    if wishes is not NO_WISHES:
        if called(target, wishes.exclude):
            return EXCLUDED
        lacks = sorted(word for word in wishes.require if word not in FEATURES and not has(target, word))
        if lacks:
            return f"lacks {', '.join(lacks)}"
    refused = facts.refusal(target)
    if refused is not None:
        return refused
    if wishes.max_cost_nusd is not None:
        cost_nusd = facts.expected_cost_nusd(target)
        if cost_nusd is None:
            return f"no price known, and at most ${nusd_to_usd(wishes.max_cost_nusd)} is wished"
        if cost_nusd > wishes.max_cost_nusd:
            return f"expected to cost ${nusd_to_usd(cost_nusd)}, more than ${nusd_to_usd(wishes.max_cost_nusd)}"
    if wishes.max_latency_s is not None and first_token_ms is not None and first_token_ms > wishes.max_latency_s * 1000:
        return f"expected first token {_time(first_token_ms)}, more than {_time(wishes.max_latency_s * 1000)}"
    return None


def called(target: Target, names: frozenset[str] | tuple[str | None, ...]) -> bool:
    """Whether one of the names is the target's, or its provider's."""
    return target.provider.name in names or target.name in names


def has(target: Target, word: str) -> bool:
    """Whether it is known to have what a request requires: a capability that is declared, or a region: `eu` is `eu-west-1`, too."""
    if not word.startswith(REGION):
        return target.capabilities is not None and word in target.capabilities
    wanted = word.removeprefix(REGION).strip().lower()
    regions = [region.lower() for region in (target.provider.region, target.provider.location) if region]
    return any(region == wanted or region.startswith(f"{wanted}-") for region in regions)


def listed(target: Target) -> frozenset[str] | None:
    """All that it can do, None where nobody says so. A list that names no feature, but only what it is good at, says nothing of those."""
    capabilities = target.capabilities
    return None if capabilities and capabilities.isdisjoint(FEATURES) else capabilities


def _time(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.3g} s"


# -- what is known of a target

Source = Literal["recent", "declared", "mean"]


@dataclass(slots=True)
class Option:
    """A target that may be tried. `place` is where it stands in the chain, from 0.

    `first_token_ms` is what is expected, and `source` whence: the median of recent streams, what is declared, or the moving mean of
    everything. `sure`: 1, or a half where nobody knows whether it can do what the request needs. `quality` 0 to 1, as measured, else
    as declared. `ok` of `ended` recent attempts went well. What a strategy does not look at is not filled in.
    """

    name: str
    place: int = 0
    preferred: bool = False
    weight: float = 1.0
    in_flight: int = 0
    limit: int | None = None
    first_token_ms: float | None = None
    source: Source | None = None
    tokens_per_s: float | None = None
    expected_cost_nusd: int | None = None
    sure: float = 1.0
    quality: float | None = None
    ok: int = 0
    ended: int = 0


# what each strategy looks at, and so what the trace says
INPUTS: Mapping[Strategy, tuple[str, ...]] = {
    "order": (),
    "weighted": ("weight",),
    "round_robin": (),
    "least_busy": ("in_flight", "limit"),
    "fastest": ("first_token_ms", "source", "tokens_per_s"),
    "cheapest": ("expected_cost_nusd",),
    "score": (
        "sure",
        "quality",
        "expected_cost_nusd",
        "first_token_ms",
        "source",
        "tokens_per_s",
        "ok",
        "ended",
    ),
    "sticky": ("weight",),
}


def observe(strategy: Strategy, place: int, target: Target, deployments: Sequence[Deployment], facts: Facts) -> Option:
    """An Option as it stands. `deployments`: those of its keys that are usable, one at least, with what is no longer recent forgotten."""
    option = Option(target.name, place, called(target, (facts.wishes.prefer,)))
    match strategy:
        case "weighted" | "sticky":
            option.weight = target.weight
        case "least_busy":
            busy = [deployment.busy() for deployment in deployments]
            option.in_flight = sum([in_flight for in_flight, _ in busy])
            limits = [limit for _, limit in busy if limit is not None]
            option.limit = sum(limits) if len(limits) == len(busy) else None
        case "fastest":
            _observe_speed(option, target, deployments)
        case "cheapest":
            option.expected_cost_nusd = facts.expected_cost_nusd(target)
        case "score":
            _observe_speed(option, target, deployments)
            option.expected_cost_nusd = facts.expected_cost_nusd(target)
            option.sure = _sure(target, facts.needs)
            standings = [deployment.standing for deployment in deployments if deployment.standing is not None]
            measured = [standing.quality for standing in standings if standing.quality is not None]
            declared = None if target.quality is None else target.quality / 100
            option.quality = _rounded(_mean(measured, declared), 3)
            option.ok = sum([standing.ok for standing in standings])
            option.ended = sum([standing.ended for standing in standings])
    return option


def first_token(target: Target, deployments: Sequence[Deployment]) -> tuple[float | None, Source | None]:
    """Milliseconds until the first content, as expected, and whence that is known. Of several keys the mean."""
    recent = [d.standing.first_token_s(0.5) for d in deployments if d.standing is not None]
    seconds = _mean([one for one in recent if one is not None], None)
    if seconds is not None:
        return round(seconds * 1000, 1), "recent"
    if target.expected_first_token_s is not None:
        return round(target.expected_first_token_s * 1000, 1), "declared"
    seconds = _mean([d.latency_s for d in deployments if d.latency_s is not None], None)
    return (None, None) if seconds is None else (round(seconds * 1000, 1), "mean")


def _observe_speed(option: Option, target: Target, deployments: Sequence[Deployment]) -> None:
    option.first_token_ms, option.source = first_token(target, deployments)
    speeds = [d.standing.tokens_per_s for d in deployments if d.standing is not None and d.standing.tokens_per_s is not None]
    option.tokens_per_s = _rounded(_mean(speeds, None), 1)


def _sure(target: Target, needs: frozenset[str]) -> float:
    """1, or a half where nobody knows whether it can do what is needed. What it is known to lack has ruled it out."""
    return 1.0 if not needs or listed(target) is not None else 0.5


def _mean(values: list[float], otherwise: float | None) -> float | None:
    return sum(values) / len(values) if values else otherwise


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


# -- who is asking


def sticky_of(request: ChatRequest, client: str | None) -> str:
    """A digest of whose conversation this is, so that all of it goes to one target: the first that is there of `prompt_cache_key`, the
    session in `metadata`, `safety_identifier` and `user`, the first system and user messages. Sixteen hex digits."""
    body = request.body
    metadata = body.get("metadata")
    session = metadata if isinstance(metadata, dict) else {}
    named = (
        body.get("prompt_cache_key"),
        session.get("session_id"),
        session.get("conversation_id"),
        body.get("safety_identifier"),
        body.get("user"),
    )
    said = next((name for name in named if isinstance(name, str) and name), None)
    text = _beginning(body.get("messages")) if said is None else said[:MAX_STICKY_CHARS]
    return blake2b(f"{client or ''}\0{text}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _beginning(messages: object) -> str:
    """The text of the messages up to the first of the user's: the same through a whole conversation."""
    found: list[str] = []
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            continue
        content = message.get("content")
        if isinstance(content, str):
            found.append(content[:MAX_STICKY_CHARS])
        elif isinstance(content, list):
            texts = [part.get("text") for part in content if isinstance(part, dict)]
            found.append("".join([text for text in texts if isinstance(text, str)])[:MAX_STICKY_CHARS])
        if message.get("role") == "user":
            break
    return "\0".join(found)[:MAX_STICKY_CHARS]
