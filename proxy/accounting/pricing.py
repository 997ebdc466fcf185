"""What tokens cost, to the nano-dollar.

A price comes from, in this order: `prices:` in providers.yaml; the provider's own figure in its answer
(`Usage.provider_cost_nusd`); the table of the package genai-prices, compiled by `price_data` into a file whose format is told
there. Where none of them says anything, the cost is None: unpriced, and never 0.

`Rates` is one target's prices at one time, as integers. The kinds of tokens are a tree; a price that is missing is its parent's:

    input ─┬─ cached_input                     output ─┬─ reasoning     request (a flat price for each)
           ├─ cache_write ── cache_write_1h            └─ output_audio
           └─ input_audio

What is kept in a cache for an hour rather than for minutes has a price of its own at Anthropic, in the table alone.
https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching

Prices are USD per million; one nano-dollar per million tokens is the unit inside, divided further where a price has more than
nine decimals, so that nothing is rounded before the one rounding (half to even) of an attempt's sum.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import date
from decimal import Decimal
from importlib.util import find_spec
from math import lcm
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.core.money import NUSD_PER_USD
from proxy.core.target import Price, Target
from proxy.core.usage import Usage

FROM_FILE: Final = "providers.yaml"
FROM_PROVIDER: Final = "provider"
PACKAGE: Final = "genai-prices"
MODULE: Final = "genai_prices"
FORMAT: Final = 2  # of the compiled table; raise it with every change to `price_data`
MAX_REMEMBERED: Final = 4_096
COMPILE_TIMEOUT_S: Final = 60.0

_METADATA: Final = re.compile(rf"{MODULE}-(.+)\.dist-info")
_MILLION: Final = 1_000_000
_DAY_S: Final = 86_400
_FOREVER: Final = float("inf")
_PARENT: Final = {  # each before its own parts
    "cached_input": "input",
    "cache_write": "input",
    "cache_write_1h": "cache_write",
    "input_audio": "input",
    "reasoning": "output",
    "output_audio": "output",
}


@dataclass(frozen=True, slots=True)
class Band:
    """Integer rates, `Rates.unit` of which are a nano-dollar; a subset's is what it adds to its parent's (below 0: cheaper)."""

    input: int
    output: int
    cached_input: int
    cache_write: int
    cache_write_1h: int
    reasoning: int
    input_audio: int
    output_audio: int
    request: int


@dataclass(frozen=True, slots=True)
class Rates:
    """One target's prices. `steps`: with more input tokens than the first figure (`base` below all), the whole attempt costs that
    band's rates, as the providers do it: a cliff, not a staircase. In rising order.

    `source` names whose prices they are; `configured` is true for those of providers.yaml, which nothing overrules.
    """

    base: Band
    unit: int
    source: str
    configured: bool = False
    steps: tuple[tuple[int, Band], ...] = ()

    def cost_nusd(self, usage: Usage) -> int:
        band = self.base
        if self.steps:
            for above, step in self.steps:
                if usage.input_tokens > above:
                    band = step
        total = usage.input_tokens * band.input + usage.output_tokens * band.output + band.request
        if not usage.plain:
            total += self._parts(usage, band)
        cost, rest = divmod(total, self.unit)
        if not rest:
            return cost
        rest *= 2
        return cost + 1 if rest > self.unit or (rest == self.unit and cost & 1) else cost

    @staticmethod
    def _parts(usage: Usage, band: Band) -> int:
        """What cached, audio and reasoning tokens cost more or less than plain ones."""
        total = 0
        room = usage.input_tokens
        if count := usage.cached_input_tokens:
            room -= (count := min(count, room))
            total += count * band.cached_input
        if count := usage.cache_write_tokens:
            room -= (count := min(count, room))
            total += count * band.cache_write + min(usage.cache_write_1h_tokens, count) * band.cache_write_1h
        if count := usage.input_audio_tokens:
            total += min(count, room) * band.input_audio
        room = usage.output_tokens
        if count := usage.reasoning_tokens:
            room -= (count := min(count, room))
            total += count * band.reasoning
        if count := usage.output_audio_tokens:
            total += min(count, room) * band.output_audio
        return total

    def bound_nusd(self, input_tokens: int, output_tokens: int) -> int:
        """The most that so many tokens can cost, whatever kind they turn out to be. Rounded up."""
        highest = 0
        for above, band in ((-1, self.base), *self.steps):
            if input_tokens > above:
                written = band.cache_write + max(0, band.cache_write_1h)
                input_rate = band.input + max(0, band.cached_input, written, band.input_audio)
                output_rate = band.output + max(0, band.reasoning, band.output_audio)
                highest = max(highest, input_tokens * input_rate + output_tokens * output_rate + band.request)
        return -(-highest // self.unit)


def charge(usage: Usage, rates: Rates | None) -> tuple[int | None, str | None]:
    """What an attempt costs and who says so, in the order of the module's docstring.

    A provider's own 0 counts only where no rates are known: a gateway that cannot price a model says 0 too. Rates are those of what
    the provider bills, where that is not what was consumed.
    """
    own = usage.provider_cost_nusd
    if own is not None and (rates is None or (own > 0 and not rates.configured)):
        return own, FROM_PROVIDER
    if rates is None:
        return None, None
    return rates.cost_nusd(usage if usage.billed is None else usage.billed), rates.source


# -- From prices to rates ------------------------------------------------------------------------------------------------------


def rates_of_price(price: Price) -> Rates:
    """Of a price in providers.yaml."""
    given = {kind.name: value for kind in fields(price) if (value := getattr(price, kind.name)) is not None}
    return _rates({0: given}, source=FROM_FILE, configured=True)


FREE: Final = Rates(Band(0, 0, 0, 0, 0, 0, 0, 0, 0), 1, "free")


def _rates_of_entry(prices: Mapping[str, Any], source: str) -> Rates:
    """Of one entry of the table, whose prices may step up with the input, each kind at thresholds of its own."""
    thresholds = sorted({above for price in prices.values() if isinstance(price, list) for above, _ in price[1]})
    tables = {-1: {kind: Decimal(price[0] if isinstance(price, list) else price) for kind, price in prices.items()}}
    for threshold in thresholds:
        table = dict(tables[-1])
        for kind, price in prices.items():
            for above, step in price[1] if isinstance(price, list) else ():
                if above <= threshold:
                    table[kind] = Decimal(step)
        tables[threshold] = table
    return _rates(tables, source=source)


def _rates(tables: Mapping[int, Mapping[str, Decimal]], *, source: str, configured: bool = False) -> Rates:
    ratios = {
        above: {kind: (value * NUSD_PER_USD).as_integer_ratio() for kind, value in table.items()}
        for above, table in tables.items()
    }
    scale = lcm(*(denominator for table in ratios.values() for _, denominator in table.values()))
    bands: list[tuple[int, Band]] = []
    for above, table in ratios.items():
        rate = {kind: numerator * (scale // denominator) for kind, (numerator, denominator) in table.items()}
        whole = {"input": rate.get("input", 0), "output": rate.get("output", 0)}
        extra = {}
        for kind, parent in _PARENT.items():
            full = rate.setdefault(kind, rate.get(parent, 0))
            extra[kind] = full - rate.get(parent, 0)
        bands.append((above, Band(**whole, **extra, request=rate.get("request", 0))))
    return Rates(bands[0][1], scale * _MILLION, source, configured, tuple(bands[1:]))


# -- Which entry of the table --------------------------------------------------------------------------------------------------


def matches(clause: Mapping[str, Any], model: str) -> bool:
    """Whether a clause of the table matches a model's name in lower case."""
    ((kind, value),) = clause.items()
    match kind:
        case "equals":
            return bool(model == value)
        case "starts_with":
            return model.startswith(value)
        case "ends_with":
            return model.endswith(value)
        case "contains":
            return value in model
        case "regex":
            return re.search(value, model) is not None
        case "or":
            return any(matches(each, model) for each in value)
        case "and":
            return all(matches(each, model) for each in value)
    return False


_COMPACT_DATE: Final = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")


def dashed_dates(model: str) -> str:
    """`gpt-5.2-20251211` as `gpt-5.2-2025-12-11`: gateways write the first, the table the second."""

    def dashed(found: re.Match[str]) -> str:
        year, month, day = found.groups()
        try:
            date(int(year), int(month), int(day))
        except ValueError:
            return found[0]
        return f"-{year}-{month}-{day}"

    return _COMPACT_DATE.sub(dashed, model)


def _active(when: Mapping[str, Any] | None, wall: float) -> bool:
    if when is None:
        return True
    if "from" in when:
        return bool(wall >= when["from"])
    start, end = when["daily"]
    second = wall % _DAY_S
    return bool(second >= start or second < end) if end < start else bool(start <= second < end)


def _changes(conditions: list[Any], wall: float) -> float:
    """When the answer of `_active` may next change."""
    day = wall - wall % _DAY_S
    moments = [_FOREVER]
    for when, _ in conditions:
        if when and "from" in when:
            moments.append(when["from"])
        elif when:
            moments += [day + second + offset for second in when["daily"] for offset in (0, _DAY_S)]
    return min(moment for moment in moments if moment > wall)


@dataclass(slots=True)
class _Remembered:
    """Rates of one target from `since` to before `until`. Holding the target keeps its `id()` from being used again."""

    target: Target
    rates: Rates | None
    since: float
    until: float


class PriceBook:
    """The prices of every target. `warm` once at the start; `rates` on the hot path, a dictionary look-up after the first time.

    `problem` says in a sentence why there is no price data, None when there is: to be logged once. Nothing here raises for it.
    """

    def __init__(self, cache_dir: Path, *, release: str | None = None) -> None:
        self._release = release or installed_release()
        self.path = cache_dir / f"prices-{self._release}.jsonl"
        self.source = f"{PACKAGE} {self._release}"
        self.ready = False
        self.problem: str | None = None
        self._lines: dict[str, bytes] = {}
        self._providers: dict[str, dict[str, Any]] = {}
        self._remembered: dict[int, _Remembered] = {}
        self._contexts: dict[tuple[str | None, str], int | None] = {}

    async def warm(self) -> None:
        """Read the table, after compiling it in a process of its own if it is not there or damaged."""
        if await asyncio.to_thread(self.load):
            return
        self.problem = await self._compile()
        if self.problem is None and not await asyncio.to_thread(self.load):
            self.problem = f"price data at {self.path} cannot be read: costs of models without a price in the file are unknown"

    def load(self) -> bool:
        """Read the table if it is there and whole."""
        try:
            header, _, body = self.path.read_bytes().partition(b"\n")
            told = orjson.loads(header)
            if (told["format"], told["version"], told["sha256"]) != (FORMAT, self._release, hashlib.sha256(body).hexdigest()):
                return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self._lines = {line[7 : line.index(b'"', 7)].decode(): line for line in body.splitlines()}  # {"id":"…
        self._providers.clear()
        self._remembered.clear()
        self._contexts.clear()
        self.problem = None
        self.ready = True
        return True

    async def _compile(self) -> str | None:
        """None when it went well, else what to tell the operator."""
        where = f"price data cannot be written to {self.path}: costs of models without a price in the file are unknown"
        try:
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "proxy.accounting.price_data",
                str(self.path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as fault:
            return f"{where} ({fault.strerror or fault})"
        try:
            async with asyncio.timeout(COMPILE_TIMEOUT_S):
                _, said = await child.communicate()
        except TimeoutError:
            return f"{where} (it took more than {COMPILE_TIMEOUT_S:.0f} s)"
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode == 0:
            return None
        lines = said.decode(errors="replace").strip().splitlines()
        return f"{where} ({lines[-1] if lines else f'exit {child.returncode}'})"

    def rates(self, target: Target, wall: float) -> Rates | None:
        """What the target costs at a wall time in seconds since 1970. None: no price is known."""
        known = self._remembered.get(id(target))
        if known is not None and known.since <= wall < known.until:
            return known.rates
        rates, until = self._find(target, wall)
        if self.ready or rates is not None:  # what cannot be known yet is not remembered
            if len(self._remembered) >= MAX_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[id(target)] = _Remembered(target, rates, wall, until)
        return rates

    def context_window(self, target: Target) -> int | None:
        """The target's limit as configured, else as the table has it."""
        if target.context is not None:
            return target.context
        key = target.provider.price_source, target.upstream_model
        if key not in self._contexts:
            entry = self._entry(*key)
            if len(self._contexts) >= MAX_REMEMBERED:
                self._contexts.clear()
            self._contexts[key] = entry[1] if entry else None
        return self._contexts[key]

    def knows(self, provider_id: str) -> bool:
        """Whether the table has a provider of that id."""
        return provider_id in self._lines

    def _find(self, target: Target, wall: float) -> tuple[Rates | None, float]:
        if target.price is not None:
            return rates_of_price(target.price), _FOREVER
        if target.provider.transport == "demo":
            return FREE, _FOREVER
        entry = self._entry(target.provider.price_source, target.upstream_model)
        if entry is None:
            return None, _FOREVER
        conditions: list[Any] = entry[2]
        if not conditions:
            return None, _FOREVER
        # The last condition that holds counts, the first entry where none does.
        prices = next((prices for when, prices in reversed(conditions) if _active(when, wall)), conditions[0][1])
        until = _changes(conditions, wall)
        if not prices and target.upstream_model.lower().endswith(":free"):
            return FREE, until  # listed without a price, and free by its name
        if "input" not in prices:
            return None, until  # priced by the hour, the page or the letter
        return _rates_of_entry(prices, self.source), until

    def _entry(self, provider_id: str | None, model: str) -> list[Any] | None:
        if provider_id is None or provider_id not in self._lines:
            return None
        model = model.lower()
        found = self._match(provider_id, model)
        if found is None and (dashed := dashed_dates(model)) != model:
            found = self._match(provider_id, dashed)
        return found

    def _match(self, provider_id: str, model: str) -> list[Any] | None:
        provider = self._provider(provider_id)
        for each in (provider_id, *(fallback for fallback in provider["fallback"] if fallback in self._lines)):
            for entry in self._models(each):
                if matches(entry[0], model):
                    return entry
        return None

    def _models(self, provider_id: str) -> Iterator[list[Any]]:
        yield from self._provider(provider_id)["models"]

    def _provider(self, provider_id: str) -> dict[str, Any]:
        if provider_id not in self._providers:
            self._providers[provider_id] = orjson.loads(self._lines[provider_id])
        return self._providers[provider_id]


def installed_release() -> str:
    """As the package's metadata is called that lies beside it: `importlib.metadata` would take a fiftieth of the start. "none": there is
    none."""
    spec = find_spec(MODULE)
    if spec is None or spec.origin is None:  # the table is optional; `warm` will say what is missing
        return "none"
    try:
        beside = os.listdir(Path(spec.origin).parent.parent)
    except OSError:
        return "none"
    return next((found[1] for found in map(_METADATA.fullmatch, beside) if found is not None), "none")
