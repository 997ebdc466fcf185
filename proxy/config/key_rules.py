"""What can be asked of the runtime keys, and what they come to: pure steps from one keyring to the next, and from a keyring to settings.

    wanted_of(body)  -> Wanted                  strict: an unknown field is refused by its name
    added, revoked, rotated: Keyring -> Keyring raises InvalidValue, NotFound
    with_keys(settings, keyring) -> Settings    a runtime key is a client like those of the file

A key's budget, its rate limits and its rows in the ledger go by its name, so they survive its rotation, and who gets the name of a key that
has ended goes on with what was spent under it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from pydantic import ValidationError

from proxy.config.faults import did_you_mean, one_line
from proxy.config.keyring import EPOCH, MILLISECOND, Keyring, KeySecret, RuntimeKey, moment_text
from proxy.config.messages import Details, describe, file_path
from proxy.config.schema import (
    BudgetSection,
    LimitsSection,
    Section,
    Text,
    optional,
    parse_duration,
    parse_moment,
    required,
    section,
)
from proxy.config.settings import ClientSettings, Settings
from proxy.core.api_key import key_digest, pepper_mark
from proxy.core.errors import InvalidValue, NotFound
from proxy.core.limits import NO_LIMITS, Budget, RateLimits
from proxy.core.money import nusd_to_usd, usd_to_nusd
from proxy.core.ulid import UlidFactory

KEY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
MAX_KEYS: Final = 10_000
MAX_SECRETS: Final = 5  # of one key at a time, all but one about to end
MAX_NAMES: Final = 1_000  # chains, or patterns of models, of one key
MAX_TAG_CHARS: Final = 128
MAX_GRACE_MS: Final = 30 * 86_400_000
DEFAULT_GRACE: Final = "1h"
_AHEAD: Final = re.compile(r"([0-9]{1,6}) ?(m|h|d|w|y)")
_UNITS_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000, "y": 365 * 86_400_000}
_MAX_MS: Final = 253_402_300_799_000  # the end of the year 9999


class KeySection(Section):
    """What a key is asked for with. The fields are those of a stanza of `clients:`, but for the secret."""

    name: Text = required("Who calls.", "search-agent")
    department: Text | None = optional("Whom its use is counted for.", "research")
    agent: Text | None = optional("The agent that its use is counted for.", "search")
    chains: list[Text] | None = optional("The chains that it may use, and no direct targets.", ["smart"])
    models: list[Text] | None = optional("The model names that it may ask for.", ["gpt-*"])
    expires: Text | None = optional("Until when: an age from now, or a date.", "90d")
    budget: BudgetSection | None = optional("What it may spend.", {"usd": 50, "per": "month"})
    limits: LimitsSection = section("What it may ask.", LimitsSection)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key that somebody asks for."""

    name: str
    department: str | None = None
    agent: str | None = None
    chains: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    expires_ms: int | None = None
    budget: Budget | None = None
    limits: RateLimits = NO_LIMITS


# -- what is asked for


def wanted_of(body: Mapping[str, Any], settings: Settings, now_ms: int) -> Wanted:
    """Checks a body against the grammar and the configuration. Raises InvalidValue, with the field as `param`."""
    try:
        asked = KeySection.model_validate(dict(body))
    except ValidationError as error:
        raise _refusal(cast("Details", error.errors(include_url=False)[0]), body) from None
    if not KEY_NAME.fullmatch(asked.name):
        raise InvalidValue(
            f"'{one_line(asked.name)}' cannot name a key (use at most 64 letters, digits, '.', '_', '-' and '@').", param="name"
        )
    for name, tag in (("department", asked.department), ("agent", asked.agent)):
        if tag is not None and (len(tag) > MAX_TAG_CHARS or not tag.isprintable()):
            raise InvalidValue(f"{name}: at most {MAX_TAG_CHARS} printable characters.", param=name)
    for index, chain in enumerate(_few(asked.chains, "chains")):
        if chain not in settings.chains and chain not in dict(settings.wildcards):
            known = [*settings.chains, *dict(settings.wildcards)]
            advice = did_you_mean(chain, known, otherwise="write the name of a chain of the configuration")
            raise InvalidValue(f"unknown chain '{one_line(chain)}'{advice}", param=f"chains.{index}")
    for index, model in enumerate(_few(asked.models, "models")):
        if len(model) > 256 or not model.isprintable():
            raise InvalidValue("a model name or pattern has at most 256 printable characters.", param=f"models.{index}")
    budget = asked.budget
    return Wanted(
        asked.name,
        asked.department,
        asked.agent,
        None if asked.chains is None else tuple(asked.chains),
        None if asked.models is None else tuple(asked.models),
        None if asked.expires is None else expiry_ms(asked.expires, now_ms),
        None if budget is None else Budget(usd_to_nusd(budget.usd), budget.per, budget.hard),
        RateLimits(**vars(asked.limits)),
    )


def expiry_ms(text: str, now_ms: int) -> int:
    """`90d` from now, a date (its first moment in UTC) or RFC 3339. Raises InvalidValue."""
    ahead = _AHEAD.fullmatch(text.strip())
    try:
        found = now_ms + int(ahead[1]) * _UNITS_MS[ahead[2]] if ahead else round(parse_moment(text) * 1000)
    except ValueError:
        found = 0
    if not now_ms < found <= _MAX_MS:
        problem = "lies in the past" if 0 < found <= now_ms else "is no time"
        raise InvalidValue(f"'{one_line(text)}' {problem} (write 90d, 2027-01-31 or 2027-01-31T12:00:00Z).", param="expires")
    return found


def grace_ms(text: str) -> int:
    """How long a replaced secret still opens: `0s` not at all. Raises InvalidValue."""
    try:
        found = round(parse_duration(text) * 1000)
    except ValueError:
        found = MAX_GRACE_MS + 1
    if found > MAX_GRACE_MS:
        raise InvalidValue("write a duration of at most 30d: 0s, 1h, 7d.", param="grace")
    return found


def _few(names: list[str] | None, param: str) -> list[str]:
    if names is not None and len(names) > MAX_NAMES:
        raise InvalidValue(f"{param}: at most {MAX_NAMES:,}.", param=param)
    return names or []


def _refusal(details: Details, body: Mapping[str, Any]) -> InvalidValue:
    path = file_path(details["loc"])
    param = ".".join(map(str, path))
    if details["type"] == "extra_forbidden":
        known = list(KeySection.model_fields) if len(path) == 1 else []
        advice = did_you_mean(str(path[-1]), known, otherwise=f"known here: {', '.join(known)}") if known else ""
        return InvalidValue(f"unknown field '{one_line(param)}'{advice}", param=one_line(param))
    if details["type"] == "missing" and path == ("name",):
        return InvalidValue("'name' is missing: who will use the key", param="name")
    found: Any = body
    for element in path:
        if isinstance(found, Mapping):
            found = found.get(element)
        else:
            found = found[element] if isinstance(found, list) and isinstance(element, int) else None
    # the stanza of a client has the same keys, so its advice is right here as well
    return InvalidValue(describe(details, ("clients", "x", *path), found), param=param)


# -- from one keyring to the next


def added(
    keyring: Keyring, wanted: Wanted, settings: Settings, *, key: str, new_id: UlidFactory, now_ms: int
) -> tuple[Keyring, RuntimeKey]:
    """With a key of its own for whoever is wanted. Raises InvalidValue when the name is taken."""
    if wanted.name in settings.clients and settings.clients[wanted.name].key_id is None:
        raise InvalidValue(f"the configuration has a client '{wanted.name}' already (take another name).", param="name")
    if any(other.name == wanted.name and other.state(now_ms) == "active" for other in keyring.keys):
        raise InvalidValue(
            f"there is a key of the name '{wanted.name}' already (rotate or revoke it, or take another name).", param="name"
        )
    keys = _room(keyring.keys, now_ms)
    made = RuntimeKey(
        id=new_id(),
        name=wanted.name,
        created_ms=now_ms,
        secrets=(_secret(key, settings, now_ms),),
        department=wanted.department,
        agent=wanted.agent,
        chains=wanted.chains,
        models=wanted.models,
        expires_ms=wanted.expires_ms,
        budget=wanted.budget,
        limits=wanted.limits,
    )
    return Keyring((*keys, made), made=True), made


def revoked(keyring: Keyring, reference: str, *, now_ms: int) -> tuple[Keyring, RuntimeKey]:
    """One that is revoked already stays as it is. Raises NotFound."""
    key = _find(keyring, reference, now_ms)
    if key.revoked_ms is not None:
        return keyring, key
    return _replaced(keyring, replace(key, revoked_ms=now_ms))


def rotated(
    keyring: Keyring, reference: str, settings: Settings, *, key: str, grace: int, now_ms: int
) -> tuple[Keyring, RuntimeKey]:
    """With another secret; those before it open for `grace` milliseconds more. Raises NotFound, InvalidValue."""
    found = _find(keyring, reference, now_ms)
    if (state := found.state(now_ms)) != "active":
        raise InvalidValue(f"the key {found.name} is {state}: make another one.", param="id")
    until_ms = now_ms + grace
    # one that has just ended is kept until the next change, so that who still sends it is told what became of it
    olds = [
        replace(old, until_ms=until_ms if old.until_ms is None else min(old.until_ms, until_ms))
        for old in found.secrets
        if not old.is_over(now_ms)
    ]
    if len(olds) >= MAX_SECRETS and grace:
        raise InvalidValue(f"{len(olds)} secrets of {found.name} still open it: end them with a grace of 0s.", param="grace")
    return _replaced(keyring, replace(found, secrets=(_secret(key, settings, now_ms), *olds[:MAX_SECRETS])))


def _find(keyring: Keyring, reference: str, now_ms: int) -> RuntimeKey:
    found = keyring.find(reference, now_ms)
    if found is None:
        raise NotFound("There is no key of that id or name.")
    return found


def _secret(key: str, settings: Settings, now_ms: int) -> KeySecret:
    pepper = None if settings.key_pepper is None else settings.key_pepper.reveal().encode()
    mark = None if pepper is None else pepper_mark(pepper)
    return KeySecret(key_digest(key.encode(), pepper), mark, key[-4:], now_ms)


def _replaced(keyring: Keyring, changed: RuntimeKey) -> tuple[Keyring, RuntimeKey]:
    return Keyring(tuple(changed if key.id == changed.id else key for key in keyring.keys), made=True), changed


def _room(keys: tuple[RuntimeKey, ...], now_ms: int) -> tuple[RuntimeKey, ...]:
    """For one more: of those that have ended the first made go first. Raises InvalidValue."""
    if len(keys) < MAX_KEYS:
        return keys
    ended = next((n for n, key in enumerate(keys) if key.state(now_ms) != "active"), None)
    if ended is None:
        raise InvalidValue(f"there are {MAX_KEYS:,} keys, as many as there may be (revoke some).", param="name")
    return keys[:ended] + keys[ended + 1 :]


# -- what they come to


def with_keys(settings: Settings, keyring: Keyring, *, now_ms: int, problem: str | None = None) -> Settings:
    """The same settings, with clients as they are at this moment. `problem`: the keys could not be read; nobody is let in for want of them.

    What ends at a moment (`expires`, a grace) is in the result as it is now; `keys_change_ms` is when it must be made anew.
    """
    file_clients = {name: client for name, client in settings.clients.items() if client.key_id is None}
    clients = dict(file_clients)
    by_digest: dict[bytes, ClientSettings] = {}
    refused: dict[bytes, str] = {}
    changes: list[int] = []
    for client in file_clients.values():
        expires_ms = None if client.expires_s is None else round(client.expires_s * 1000)
        if expires_ms is not None and expires_ms <= now_ms:
            refused |= dict.fromkeys(client.key_digests, f"This API key has expired ({_second(expires_ms)}).")
            continue
        changes += [] if expires_ms is None else [expires_ms]
        by_digest |= dict.fromkeys(client.key_digests, client)
    mark = None if settings.key_pepper is None else pepper_mark(settings.key_pepper.reveal().encode())
    for key in keyring.keys:
        state = key.state(now_ms)
        if state != "active":
            if key.revoked_ms is not None:
                words = f"This API key was revoked ({_second(key.revoked_ms)})."
            else:
                words = f"This API key has expired ({_second(key.expires_ms or 0)})."
            refused |= {secret.digest: words for secret in key.secrets}
            continue
        if key.name in file_clients:
            words = "This API key opens nothing: the configuration has a client of its name."
            refused |= {secret.digest: words for secret in key.secrets}
            continue
        opening = [secret for secret in key.secrets if not secret.is_over(now_ms) and secret.pepper in (None, mark)]
        refused |= {
            secret.digest: f"This API key was replaced ({_second(secret.until_ms or 0)})."
            for secret in key.secrets
            if secret.is_over(now_ms)
        }
        changes += [moment for moment in (key.expires_ms, *(s.until_ms for s in opening)) if moment is not None]
        client = client_of(key, frozenset(secret.digest for secret in opening))
        clients[key.name] = client
        by_digest |= dict.fromkeys(client.key_digests, client)
    made = replace(
        settings,
        clients=clients,
        clients_by_digest=by_digest,
        refused_by_digest=refused,
        needs_key=bool(file_clients) or keyring.made or problem is not None,
        keyring=keyring,
        keys_problem=problem,
        keys_change_ms=min(changes, default=None),
    )
    # the same chains by the same names: whoever laid one out finds it again
    object.__setattr__(made, "resolve", settings.resolve)
    return made


def client_of(key: RuntimeKey, digests: frozenset[bytes]) -> ClientSettings:
    return ClientSettings(
        name=key.name,
        key_digests=digests,
        department=key.department,
        agent=key.agent,
        chains=None if key.chains is None else frozenset(key.chains),
        models=key.models,
        budget=key.budget,
        limits=key.limits,
        key_id=key.id,
    )


def warnings_of(settings: Settings) -> Iterator[str]:
    """What of the runtime keys does not work as it was meant."""
    mark = None if settings.key_pepper is None else pepper_mark(settings.key_pepper.reveal().encode())
    for key in settings.keyring.keys:
        if key.revoked_ms is not None:
            continue
        if key.name in settings.clients and settings.clients[key.name].key_id is None:
            yield f"the runtime key '{key.name}' opens nothing: clients: has the same name (rename one of them)"
        elif key.secrets[0].pepper not in (None, mark):
            yield (
                f"the runtime key '{key.name}' opens nothing: it was made under another auth.key_pepper "
                "(write that one again, or rotate the key)"
            )


# -- as the API and the command line show it


def shown(key: RuntimeKey, settings: Settings, *, now_ms: int, last_used_ms: int | None = None) -> dict[str, Any]:
    """Everything but what opens it. Times are RFC 3339."""
    newest = key.secrets[0]
    ending = [s.until_ms for s in key.secrets[1:] if s.until_ms is not None and s.until_ms > now_ms]
    shadowed = key.name in settings.clients and settings.clients[key.name].key_id is None
    state = key.state(now_ms)
    return {
        "id": key.id,
        "name": key.name,
        "state": "shadowed" if shadowed and state == "active" else state,
        "hint": f"tb_…{newest.tail}",
        "created": moment_text(key.created_ms),
        "expires": moment_text(key.expires_ms),
        "revoked": moment_text(key.revoked_ms),
        "rotated": None if newest.created_ms == key.created_ms else moment_text(newest.created_ms),
        "old_until": moment_text(max(ending, default=None)),
        "last_used": moment_text(last_used_ms),
        "department": key.department,
        "agent": key.agent,
        "chains": None if key.chains is None else list(key.chains),
        "models": None if key.models is None else list(key.models),
        "budget": None
        if key.budget is None
        else {"usd": nusd_to_usd(key.budget.limit_nusd), "per": key.budget.per, "hard": key.budget.hard},
        "limits": {"rpm": key.limits.rpm, "tpm": key.limits.tpm, "in_flight": key.limits.in_flight},
    }


def _second(ms: int) -> str:
    return f"{(EPOCH + ms * MILLISECOND).isoformat(timespec='seconds').removesuffix('+00:00')}Z"
