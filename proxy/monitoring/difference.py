"""What two configurations differ in, in words: the effective ones, with the defaults and the catalogue applied.

A secret is never told, nor its fingerprint: only that it is another. What a target has from its provider is told of the provider, and
what several chains have of one target is told once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from typing import Any

from proxy.config.settings import AlertSettings, ChainTemplate, ClientSettings, Destination, Settings
from proxy.core.alerts import Levels
from proxy.core.limits import Budget, Quota
from proxy.core.money import nusd_to_usd
from proxy.core.redact import MASK, Redactor, one_line
from proxy.core.target import Chain, Credential, Provider, Secret, Target

MAX_WORD_CHARS = 200
_STANDS_FOR = "MODEL"  # what the `*` of a chain's name is tried with
_ARROW = " → "


@dataclass(frozen=True, slots=True)
class Change:
    """`where`: what it is about, such as `chain smart`. `what`: a sentence's worth. `kind`: added, removed or changed."""

    where: str
    what: str
    kind: str = "changed"


def differences(old: Settings, new: Settings) -> list[Change]:
    """In the order of a file: what is about everything, providers, targets, chains, clients. Empty: they mean the same."""
    found = [*_general(old, new), *_providers(old, new), *_targets(old, new), *_chains(old, new), *_clients(old, new)]
    if not found and old.hash != new.hash:
        found = [
            Change("file", "what they say of models that no chain names differs (prices, limits or defaults of direct targets)")
        ]
    redact = Redactor([*old.secrets(), *new.secrets()])
    return [Change(redact(each.where), redact(each.what), each.kind) for each in found]


# -- what there can be


def _general(old: Settings, new: Settings) -> Iterator[Change]:
    yield from _fields("server", old.server, new.server)
    yield from _one("data_dir", "", str(old.data_dir), str(new.data_dir))
    for name in ("admin_token", "metrics_token", "key_pepper"):
        yield from _one("auth", name, getattr(old, name), getattr(new, name))
    yield from _one("auth", "none", old.auth_none, new.auth_none)
    yield from _one("budget", "", old.budget, new.budget)
    for where, before, after in (("departments", old.departments, new.departments), ("agents", old.agents, new.agents)):
        for name in _names(before, after):
            yield from _one(f"{where} {one_line(name)}", "budget", before.get(name), after.get(name))
    for name in ("retention", "ledger", "health", "cache"):
        yield from _fields(name, getattr(old, name), getattr(new, name))
    yield from _alerts(old.alerts, new.alerts)


def _alerts(old: AlertSettings, new: AlertSettings) -> Iterator[Change]:
    yield from _fields("alerts", old, new, but=frozenset(("to", "severities")))
    yield from _one("alerts", "severities", dict(old.severities), dict(new.severities))
    if old.to != new.to:
        told = _ARROW.join([_listed(map(_destination, old.to)), _listed(map(_destination, new.to))])
        same = list(map(_destination, old.to)) == list(map(_destination, new.to))
        yield Change("alerts", "to: an address is another" if same else f"to: {told}")


def _providers(old: Settings, new: Settings) -> Iterator[Change]:
    for name in _names(old.providers, new.providers):
        before, after = old.providers.get(name), new.providers.get(name)
        where = f"provider {one_line(name)}"
        if before is None and after is not None:
            off = f", and cannot be used: {after.disabled}" if after.disabled else ""
            yield Change(where, f"is new ({after.dialect}, {_url(after.base_url)}){off}", "added")
        elif after is None:
            yield Change(where, "is gone", "removed")
        elif before is not None:
            yield from _provider(where, before, after)


def _provider(where: str, old: Provider, new: Provider) -> Iterator[Change]:
    if old.credentials != new.credentials:
        yield Change(where, _keys(old.credentials, new.credentials))
    for name in _names(old.headers, new.headers):
        if old.headers.get(name) != new.headers.get(name):  # a value may be a secret
            yield Change(where, f"header {one_line(name)}: {_step(name in old.headers, name in new.headers)}")
    yield from _one(where, "base_url", _url(old.base_url), _url(new.base_url))
    yield from _fields(where, old, new, but=frozenset(("name", "credentials", "headers", "base_url", "disabled")))
    yield from _usable(where, old.disabled, new.disabled)


def _targets(old: Settings, new: Settings) -> Iterator[Change]:
    """What is another of a target that stands in the same chain of both."""
    found: dict[tuple[str, str], list[str]] = {}
    chains = _all_chains(old)
    for name, chain in _all_chains(new).items():
        before = {target.name: target for target in chains[name].targets} if name in chains else {}
        for target in chain.targets:
            if target.name in before:
                for change in _target(before[target.name], target):
                    found.setdefault((target.name, change.what), []).append(name)
    counted = {name: len(in_chains) for name, in_chains in _standing(new).items()}
    for (name, what), in_chains in found.items():
        everywhere = len(in_chains) >= counted.get(name, 0)
        told = "" if everywhere else f" (in {', '.join(map(one_line, in_chains))})"
        yield Change(f"target {one_line(name)}", what + told)


def _target(old: Target, new: Target) -> Iterator[Change]:
    skipped = {"provider", "label", "disabled"}
    if old.provider.quirks != new.provider.quirks:
        skipped.add("quirks")
    if old.answer is not None and new.answer is not None and old.answer != new.answer:
        yield Change("", "answer: another text")
        skipped.add("answer")
    yield from _fields("", old, new, but=frozenset(skipped))
    yield from _usable("", old.disabled, new.disabled)


def _chains(old: Settings, new: Settings) -> Iterator[Change]:
    before, after = _all_chains(old), _all_chains(new)
    for name in _names(before, after):
        where = f"chain {one_line(name)}"
        if name not in before:
            yield Change(where, f"is new: {_way(after[name])}", "added")
        elif name not in after:
            yield Change(where, f"is gone (it was {_way(before[name])})", "removed")
        else:
            yield from _chain(where, before[name], after[name])


def _chain(where: str, old: Chain, new: Chain) -> Iterator[Change]:
    names = [target.name for target in old.targets], [target.name for target in new.targets]
    if names[0] != names[1]:
        gone = [name for name in names[0] if name not in names[1]]
        come = [name for name in names[1] if name not in names[0]]
        stay = [[name for name in each if name in both] for each, both in zip(names, (names[1], names[0]), strict=True)]
        told = [f"no longer {', '.join(gone)}"] if gone else []
        told += [f"with {', '.join(come)}"] if come else []
        told += ["in another order"] if stay[0] != stay[1] else []
        yield Change(where, one_line(f"{'; '.join(told) or 'as often as written'}: now {_way(new)}, was {_way(old)}", 1000))
    yield from _fields(where, old, new, but=frozenset(("name", "targets", "direct")))


def _clients(old: Settings, new: Settings) -> Iterator[Change]:
    for name in _names(old.clients, new.clients):
        before, after = old.clients.get(name), new.clients.get(name)
        where = f"client {one_line(name)}"
        if before is None:
            yield Change(where, "is new", "added")
        elif after is None:
            yield Change(where, "is gone", "removed")
        else:
            yield from _client(where, before, after)


def _client(where: str, old: ClientSettings, new: ClientSettings) -> Iterator[Change]:
    if old.key_digests != new.key_digests:
        yield Change(where, f"its {'key is' if len(new.key_digests) == 1 else 'keys are'} changed")
    yield from _one(where, "chains", _every(old.chains), _every(new.chains))
    yield from _one(where, "models", _every(old.models), _every(new.models))
    yield from _fields(where, old, new, but=frozenset(("name", "key_digests", "key_id", "chains", "models")))


# -- of two values


def _fields(where: str, old: Any, new: Any, prefix: str = "", *, but: frozenset[str] = frozenset()) -> Iterator[Change]:
    """Each field of two of a kind that is another; of what a value is made of, only what differs."""
    for each in fields(old):
        if each.name in but:
            continue
        before, after = getattr(old, each.name), getattr(new, each.name)
        if before == after:
            continue
        whole = isinstance(before, Budget | Quota | Levels | Secret)
        if type(before) is type(after) and is_dataclass(before) and not whole:
            yield from _fields(where, before, after, f"{prefix}{_label(each.name)}.")
        else:
            yield from _one(where, prefix + each.name, before, after)


def _one(where: str, name: str, old: Any, new: Any) -> Iterator[Change]:
    if old == new:
        return
    path, _, last = name.rpartition(".")
    label = f"{path}.{_label(last)}" if path else _label(last)
    if isinstance(old, Secret) or isinstance(new, Secret):
        what = _step(old is not None, new is not None)
    else:
        what = f"{_word(old, last)}{_ARROW}{_word(new, last)}"
    kind = "added" if old is None else "removed" if new is None else "changed"
    yield Change(where, f"{label}: {what}" if label else what, kind)


def _step(was: bool, is_now: bool) -> str:
    return "changed" if was and is_now else "set" if is_now else "no longer set"


def _usable(where: str, old: str | None, new: str | None) -> Iterator[Change]:
    if old != new:
        what = "can be used" if new is None else f"cannot be used: {one_line(new)}" if old is None else f"{old}{_ARROW}{new}"
        yield Change(where, what)


def _keys(old: Sequence[Credential], new: Sequence[Credential]) -> str:
    """How many there are, and whether they are others: not which."""
    if len(old) != len(new):
        return f"keys: {len(old)}{_ARROW}{len(new)}"
    return (
        "its keys are in another order" if set(old) == set(new) else "its key is changed" if len(new) == 1 else "keys are changed"
    )


# -- words


def _word(value: Any, name: str) -> str:
    """`name` ends in the value's unit, as fields do."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case Secret():
            return MASK
        case Decimal():
            return f"${value} per million"
        case int() | float():
            return _number(value, name)
        case str():
            return one_line(value, MAX_WORD_CHARS)
        case Mapping():
            return _listed([f"{one_line(str(key))}: {_word(each, name)}" for key, each in value.items()])
        case frozenset():
            return _listed(sorted([_word(each, "") for each in value]))
        case tuple() | list():
            return _listed([_word(each, "") for each in value])
    return _made_of(value)


def _made_of(value: Any) -> str:
    match value:
        case Budget():
            return f"${nusd_to_usd(value.limit_nusd)} {_PERIODS[value.per]}{'' if value.hard else ', soft'}"
        case Quota():
            zone = "" if value.time_zone == "UTC" else f" ({value.time_zone})"
            each = " for each key" if value.each_key else ""
            return f"{value.limit} {value.unit} {_PERIODS[value.per]}{zone}{each}"
        case Destination():
            return _destination(value)
    told = [(each.name, getattr(value, each.name)) for each in fields(value)]
    return _listed([f"{_label(part)} {_word(each, part)}" for part, each in told if each is not None])


_PERIODS = {"day": "a day", "month": "a month", "once": "once"}
_UNITS = ("_bytes", "_nusd", "_s")


def _label(name: str) -> str:
    """Without the unit, unless that is all that it says."""
    stem = next((name.removesuffix(unit) for unit in _UNITS if name.endswith(unit)), name)
    return name if stem == "max" else stem


def _number(value: float, name: str) -> str:
    if name.endswith("_bytes"):
        return _bytes(int(value))
    return _seconds(value) if name.endswith("_s") else f"{value:.12g}"


def _seconds(value: float) -> str:
    if value and value % 86_400 == 0:
        return f"{value / 86_400:.12g} d"
    return f"{value * 1000:.12g} ms" if 0 < value < 1 else f"{value:.12g} s"


def _bytes(value: int) -> str:
    return f"{value >> 20} MiB" if value and value % (1 << 20) == 0 else f"{value} bytes"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"


def _every(names: Iterable[str] | None) -> str:
    return "every one" if names is None else _listed(sorted(names))


def _destination(to: Destination) -> str:
    return f"{to.kind} from {to.least} on"


def _url(address: str) -> str:
    """Without what may stand before an `@`."""
    scheme, mark, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}" if mark else address


# -- chains


def _way(chain: Chain) -> str:
    how = "" if chain.strategy == "order" else f" by {chain.strategy}"
    return one_line(_ARROW.join([target.name for target in chain.targets]) or "nothing", 500) + how


def _all_chains(settings: Settings) -> dict[str, Chain]:
    return dict(settings.chains) | {name: _tried(template) for name, template in settings.wildcards}


def _tried(template: ChainTemplate) -> Chain:
    return template.make(_STANDS_FOR)


def _standing(settings: Settings) -> dict[str, list[str]]:
    """Target -> the chains that name it."""
    found: dict[str, list[str]] = {}
    for name, chain in _all_chains(settings).items():
        for target in {target.name: target for target in chain.targets}:
            found.setdefault(target, []).append(name)
    return found


def _names(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Of both, in the order of the new one, what is gone at the end."""
    return list(dict.fromkeys([*new, *old]))
