"""Runtime keys: what may be asked for, what they come to as settings, and that nobody gets in for want of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from proxy.config import key_rules
from proxy.config.faults import ConfigError
from proxy.config.key_rules import (
    MAX_SECRETS,
    added,
    expiry_ms,
    grace_ms,
    revoked,
    rotated,
    shown,
    wanted_of,
    warnings_of,
    with_keys,
)
from proxy.config.keyring import NO_KEYS, Keyring, RuntimeKey
from proxy.config.load import load
from proxy.config.settings import ClientSettings, Settings
from proxy.core.api_key import key_digest, new_key
from proxy.core.errors import InvalidApiKey, InvalidValue, NotFound
from proxy.core.limits import NO_LIMITS, Budget, RateLimits
from proxy.core.ulid import UlidFactory
from proxy.server.guard import Guard

unit, prop = pytest.mark.unit, pytest.mark.property

NOW = 1_795_271_400_000  # 2026-11-21T14:30:00Z
DAY = 86_400_000
FILE = "chains: {smart: [demo/chat], 'gpt-*': [demo/chat]}\n"
CLIENT = "clients: {listed: {key: sk-listed-0001}}\n"
_counts = itertools.count(1)


_read: dict[tuple[str, str], Settings] = {}


def settings(tmp_path: Path, text: str = "", **environ: str) -> Settings:
    """Of a file; read once, for nobody changes them."""
    known = text, repr(environ)
    if known not in _read:
        path = tmp_path / "providers.yaml"
        path.write_text(FILE + text, encoding="utf-8")
        _read[known] = load(path, environ=environ, wall=lambda: NOW / 1000)
    return _read[known]


def fresh_key() -> str:
    number = next(_counts)
    return new_key(lambda n: number.to_bytes(n, "big"))


def create(keyring: Keyring, made: Settings, name: str, *, now_ms: int = NOW, **more: Any) -> tuple[Keyring, RuntimeKey, str]:
    wanted, secret = wanted_of({"name": name, **more}, made, now_ms), fresh_key()
    after, key = added(keyring, wanted, made, key=secret, new_id=UlidFactory(lambda: now_ms / 1000), now_ms=now_ms)
    return after, key, secret


def rotate(keyring: Keyring, made: Settings, name: str, grace: int, now_ms: int) -> tuple[Keyring, str]:
    secret = fresh_key()
    return rotated(keyring, name, made, key=secret, grace=grace, now_ms=now_ms)[0], secret


def let_in(made: Settings, key: str) -> ClientSettings | str | None:
    """Who that is, or what is told."""
    try:
        return Guard(lambda: 0.0).client(made, {b"x-api-key": key.encode()})
    except InvalidApiKey as error:
        return error.message


# -- what may be asked for


@unit
def test_everything_that_may_be_asked_for(tmp_path: Path) -> None:
    asked = {
        "name": "search-agent",
        "department": "research",
        "agent": "search",
        "chains": ["smart", "gpt-*"],
        "models": ["gpt-4*"],
        "expires": "90d",
        "budget": {"usd": "12.5", "per": "day", "hard": False},
        "limits": {"rpm": 60, "tpm": 1000, "in_flight": 4},
    }
    wanted = wanted_of(asked, settings(tmp_path), NOW)
    assert wanted == key_rules.Wanted(
        "search-agent",
        "research",
        "search",
        ("smart", "gpt-*"),
        ("gpt-4*",),
        NOW + 90 * DAY,
        Budget(12_500_000_000, "day", False),
        RateLimits(60, 1000, 4),
    )


@unit
@pytest.mark.parametrize("nothing", [{}, {"limits": None, "budget": None, "chains": None, "expires": None}], ids=str)
def test_only_the_name_is_needed(tmp_path: Path, nothing: dict[str, Any]) -> None:
    assert wanted_of({"name": "a", **nothing}, settings(tmp_path), NOW) == key_rules.Wanted("a", limits=NO_LIMITS)


REFUSED: dict[str, tuple[Mapping[str, Any], str, str]] = {
    "no name": ({}, "name", "missing"),
    "an empty name": ({"name": ""}, "name", "empty"),
    "a name that is a number": ({"name": 7}, "name", "text is needed"),
    "a name with a space": ({"name": "a b"}, "name", "cannot name"),
    "a name with a line break": ({"name": "a\n"}, "name", "cannot name"),
    "a name with a slash": ({"name": "a/b"}, "name", "cannot name"),
    "a long name": ({"name": "a" * 65}, "name", "cannot name"),
    "an unknown field": ({"name": "a", "chain": ["smart"]}, "chain", "did you mean 'chains'"),
    "what only the file may have": ({"name": "a", "key": "sk-mine"}, "key", "unknown field 'key'"),
    "a field of ours": ({"name": "a", "id": "X"}, "id", "unknown field 'id'"),
    "an unknown field inside": ({"name": "a", "limits": {"rps": 1}}, "limits.rps", "unknown field 'limits.rps'"),
    "an unknown chain": ({"name": "a", "chains": ["smrt"]}, "chains.0", "did you mean 'smart'"),
    "chains as text": ({"name": "a", "chains": "smart"}, "chains", "a list is needed"),
    "a direct target as chain": ({"name": "a", "chains": ["demo/chat"]}, "chains.0", "unknown chain"),
    "too many models": ({"name": "a", "models": ["m"] * 1001}, "models", "at most 1,000"),
    "a long model": ({"name": "a", "models": ["m" * 257]}, "models.0", "at most 256"),
    "a model with control characters": ({"name": "a", "models": ["a\x1b[31m"]}, "models.0", "printable"),
    "a tag with a direction change": ({"name": "a", "department": "a\u202eb"}, "department", "printable"),
    "a long tag": ({"name": "a", "agent": "a" * 129}, "agent", "at most 128"),
    "no limit at all": ({"name": "a", "limits": {"rpm": 0}}, "limits.rpm", "at least 1"),
    "a limit that is true": ({"name": "a", "limits": {"rpm": True}}, "limits.rpm", "a number is needed"),
    "a budget below nothing": ({"name": "a", "budget": {"usd": -1}}, "budget.usd", "at least 0"),
    "a budget without end": ({"name": "a", "budget": {"usd": "inf"}}, "budget.usd", "finite"),
    "a budget by the year": ({"name": "a", "budget": {"usd": 1, "per": "year"}}, "budget.per", "day, month or once"),
    "a budget of nothing": ({"name": "a", "budget": {"per": "day"}}, "budget.usd", "missing"),
    "a time that is none": ({"name": "a", "expires": "soon"}, "expires", "is no time"),
    "a time that is over": ({"name": "a", "expires": "2026-11-21"}, "expires", "lies in the past"),
    "no time at all": ({"name": "a", "expires": "0d"}, "expires", "lies in the past"),
    "after the end of the calendar": ({"name": "a", "expires": "99999y"}, "expires", "is no time"),
    "a number as time": ({"name": "a", "expires": 90}, "expires", "text is needed"),
}


@unit
@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_names_its_field(tmp_path: Path, case: tuple[Mapping[str, Any], str, str]) -> None:
    body, param, words = case
    with pytest.raises(InvalidValue) as refused:
        wanted_of(body, settings(tmp_path), NOW)
    assert refused.value.param == param
    assert words in refused.value.message


@unit
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90d", NOW + 90 * DAY),
        ("30m", NOW + 1_800_000),
        ("12h", NOW + DAY // 2),
        ("2w", NOW + 14 * DAY),
        ("1y", NOW + 365 * DAY),
        ("2027-01-31", 1_801_353_600_000),
        ("2027-01-31T12:00:00Z", 1_801_396_800_000),
        ("2027-01-31T12:00:00+01:00", 1_801_393_200_000),
        ("2027-01-31T12:00:00.250Z", 1_801_396_800_250),
    ],
)
def test_until_when(text: str, moment: int) -> None:
    assert expiry_ms(text, NOW) == moment


@unit
@pytest.mark.parametrize(("text", "expected"), [("0s", 0), ("90s", 90_000), ("1h", 3_600_000), ("30d", 30 * DAY)])
def test_a_grace(text: str, expected: int) -> None:
    assert grace_ms(text) == expected


@unit
@pytest.mark.parametrize("text", ["", "1", "31d", "-1s", "for ever", "1e3s"])
def test_what_is_no_grace(text: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        grace_ms(text)
    assert refused.value.param == "grace"


# -- names


@unit
def test_a_name_is_taken_once(tmp_path: Path) -> None:
    made = settings(tmp_path, CLIENT)
    with pytest.raises(InvalidValue, match="has a client 'listed' already"):
        create(NO_KEYS, made, "listed")
    keyring, _, _ = create(NO_KEYS, made, "alice")
    with pytest.raises(InvalidValue, match="a key of the name 'alice' already"):
        create(keyring, with_keys(made, keyring, now_ms=NOW), "alice")


@unit
def test_the_name_of_a_key_that_has_ended_is_free_again(tmp_path: Path) -> None:
    made = settings(tmp_path)
    keyring, first, _ = create(NO_KEYS, made, "alice")
    keyring, _ = revoked(keyring, "alice", now_ms=NOW + 1)
    keyring, second, _ = create(keyring, made, "alice", now_ms=NOW + 2)
    assert first.id != second.id
    assert keyring.find("alice", NOW + 3) == second
    keyring, _ = revoked(keyring, "alice", now_ms=NOW + 4)
    assert keyring.find(first.id, NOW + 5) is not None
    assert [key.state(NOW + 5) for key in keyring.keys] == ["revoked", "revoked"]


@unit
def test_who_is_not_there_is_not_found(tmp_path: Path) -> None:
    for reference in ("", "nobody", "01M7ZJGFR0KNYPVD1FTTQK0BXP"):
        with pytest.raises(NotFound):
            revoked(NO_KEYS, reference, now_ms=NOW)
        with pytest.raises(NotFound):
            rotate(NO_KEYS, settings(tmp_path), reference, 0, NOW)


@unit
def test_there_are_only_so_many_and_the_oldest_ended_ones_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_rules, "MAX_KEYS", 3)
    made, keyring = settings(tmp_path), NO_KEYS
    for name in ("a", "b", "c"):
        keyring, _, _ = create(keyring, made, name)
    with pytest.raises(InvalidValue, match="as many as there may be"):
        create(keyring, made, "d")
    keyring, _ = revoked(keyring, "b", now_ms=NOW)
    keyring, _, _ = create(keyring, made, "d")
    assert [key.name for key in keyring.keys] == ["a", "c", "d"]


# -- as settings


@unit
def test_a_key_is_a_client_like_those_of_the_file(tmp_path: Path) -> None:
    made = settings(tmp_path, CLIENT)
    keyring, key, secret = create(
        NO_KEYS, made, "alice", department="d", chains=["smart"], models=["s*"], budget={"usd": 1}, limits={"rpm": 2}
    )
    found = with_keys(made, keyring, now_ms=NOW)
    client = found.clients["alice"]
    assert client == ClientSettings(
        name="alice",
        key_digests=frozenset((key_digest(secret.encode()),)),
        department="d",
        chains=frozenset(("smart",)),
        models=("s*",),
        budget=Budget(10**9),
        limits=RateLimits(rpm=2),
        key_id=key.id,
    )
    assert let_in(found, secret) is client
    assert let_in(found, "sk-listed-0001") is found.clients["listed"]
    assert (found.hash, found.resolve) == (made.hash, made.resolve)
    assert with_keys(found, NO_KEYS, now_ms=NOW).clients == made.clients


@unit
def test_once_there_was_a_key_no_key_is_401_whatever_became_of_it(tmp_path: Path) -> None:
    made = settings(tmp_path)
    assert Guard(lambda: 0.0).client(made, {}) is None
    keyring, _, _ = create(NO_KEYS, made, "alice", expires="1d")
    for ended, now_ms in ((keyring, NOW), (keyring, NOW + 2 * DAY), (revoked(keyring, "alice", now_ms=NOW)[0], NOW)):
        found = with_keys(made, ended, now_ms=now_ms)
        assert found.needs_key
        for headers in ({}, {b"authorization": b"Bearer x"}, {b"x-api-key": fresh_key().encode()}):
            with pytest.raises(InvalidApiKey):
                Guard(lambda: 0.0).client(found, headers)
    assert with_keys(made, Keyring((), made=True), now_ms=NOW).needs_key
    assert with_keys(made, NO_KEYS, now_ms=NOW, problem="broken").needs_key


@unit
def test_whoever_sends_a_key_that_has_ended_is_told_what_became_of_it(tmp_path: Path) -> None:
    made = settings(tmp_path)
    keyring, _, alice = create(NO_KEYS, made, "alice", expires="1d")
    keyring, _, bob = create(keyring, made, "bob")
    keyring, new = rotate(keyring, made, "bob", DAY, NOW + 1000)
    at_once = with_keys(made, keyring, now_ms=NOW + 2000)
    assert [isinstance(let_in(at_once, key), ClientSettings) for key in (alice, bob, new)] == [True, True, True]
    assert at_once.keys_change_ms == NOW + DAY
    later = with_keys(made, keyring, now_ms=NOW + 2 * DAY)
    assert let_in(later, alice) == "This API key has expired (2026-11-22T14:30:00Z)."
    assert let_in(later, bob) == "This API key was replaced (2026-11-22T14:30:01Z)."
    assert isinstance(let_in(later, new), ClientSettings)
    gone = with_keys(made, revoked(keyring, "bob", now_ms=NOW + 3 * DAY)[0], now_ms=NOW + 3 * DAY)
    assert let_in(gone, new) == "This API key was revoked (2026-11-24T14:30:00Z)."
    assert "checksum" in str(let_in(gone, new[:-1]))
    assert "not known" in str(let_in(gone, fresh_key()))
    assert "not known" in str(let_in(gone, "sk-anything"))


@unit
def test_a_client_of_the_file_takes_the_name_and_the_key_opens_nothing(tmp_path: Path) -> None:
    keyring, _, secret = create(NO_KEYS, settings(tmp_path), "listed")
    found = with_keys(settings(tmp_path, CLIENT), keyring, now_ms=NOW)
    assert found.clients["listed"].key_id is None
    assert "the configuration has a client of its name" in str(let_in(found, secret))
    (warning,) = warnings_of(found)
    assert "'listed'" in warning
    assert shown(keyring.keys[0], found, now_ms=NOW)["state"] == "shadowed"


@unit
def test_a_client_of_the_file_may_expire_and_be_limited_to_names(tmp_path: Path) -> None:
    text = "clients: {listed: {key: sk-listed-0001, expires: 2026-12-01, models: ['smart', 'gpt-4*']}}\n"
    made = settings(tmp_path, text)
    client = let_in(made, "sk-listed-0001")
    assert isinstance(client, ClientSettings)
    names = ("smart", "gpt-4", "gpt-5", "demo/chat")
    assert [client.may_use(name, None) for name in names] == [True, True, False, False]
    assert made.keys_change_ms == 1_796_083_200_000
    later = with_keys(made, NO_KEYS, now_ms=1_796_083_200_000)
    assert let_in(later, "sk-listed-0001") == "This API key has expired (2026-12-01T00:00:00Z)."


@unit
@pytest.mark.parametrize(
    ("chains", "models", "may"),
    [
        (None, None, "smart gpt-5 direct/x"),
        (["smart"], None, "smart"),
        (None, ["gpt-*"], "gpt-5"),
        (None, ["*"], "smart gpt-5 direct/x"),
        (None, ["*/x", "s*t"], "smart direct/x"),
        (["smart", "gpt-*"], ["gpt-*"], "gpt-5"),
        (["smart"], ["gpt-*"], ""),
        ([], None, ""),
        (None, [], ""),
        (None, ["smart.", "SMART", "smar"], ""),
    ],
)
def test_what_a_client_may_use(chains: list[str] | None, models: list[str] | None, may: str) -> None:
    client = ClientSettings(
        "a", frozenset(), chains=None if chains is None else frozenset(chains), models=None if models is None else tuple(models)
    )
    means = {"smart": "smart", "gpt-5": "gpt-*", "direct/x": None}
    assert [name for name, chain in means.items() if not client.is_limited or client.may_use(name, chain)] == may.split()


# -- pepper


PEPPERED = 'auth: {key_pepper: "${PEPPER}"}\n'


@unit
def test_under_a_pepper_the_digest_alone_is_of_no_use(tmp_path: Path) -> None:
    plain = settings(tmp_path)
    before, _, old = create(NO_KEYS, plain, "old")
    salted = settings(tmp_path, PEPPERED, PEPPER="pepper-0001")
    keyring, key, secret = create(before, salted, "new")
    assert key.secrets[0].digest == key_digest(secret.encode(), b"pepper-0001")
    found = with_keys(salted, keyring, now_ms=NOW)
    assert [getattr(let_in(found, each), "name", None) for each in (old, secret)] == ["old", "new"]
    for text, environ in (("", {}), (PEPPERED, {"PEPPER": "pepper-0002"}), (PEPPERED, {})):
        other = with_keys(settings(tmp_path, text, **environ), keyring, now_ms=NOW)
        assert getattr(let_in(other, old), "name", None) == "old"
        assert "not known" in str(let_in(other, secret))
        (warning,) = warnings_of(other)
        assert "'new'" in warning
        assert "pepper-000" not in warning
    assert "pepper-0001" not in repr(salted)
    assert "pepper-0001" in salted.secrets()


@unit
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('auth: {key_pepper: ""}', "'key_pepper' is empty"),
        ('auth: {key_pepper: "${EMPTY}"}', "${EMPTY} is empty"),
        ('auth: {key_pepper: "\u00e4"}', "printable ASCII"),
        ("clients: {a: {key: sk-1, expires: soon}}", "expires: 'soon': a date is needed"),
        ("clients: {a: {key: sk-1, expires: 2027-13-01}}", "a date is needed"),
        ("clients: {a: {key: sk-1, models: gpt-4}}", "a list is needed"),
    ],
)
def test_what_the_file_may_not_say(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(tmp_path, text + "\n", EMPTY="")
    assert words in str(refused.value.faults[0])


# -- over any course of events


class Course(RuleBasedStateMachine):
    """Keys come, are rotated and end while time goes on; who gets in is held against a plain list of what was promised."""

    base: Settings  # before there is a key

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.keyring = NO_KEYS
        self.ends: dict[str, tuple[str, float]] = {}  # secret -> who, and when it ends at the latest
        self.live: dict[str, str] = {}  # name -> its newest secret

    def until(self, name: str, moment: float) -> None:
        """Nothing of that name opens after the moment."""
        for secret, (who, end) in self.ends.items():
            if who == name:
                self.ends[secret] = who, min(end, moment)

    @rule(name=st.sampled_from("abc"), days=st.one_of(st.none(), st.integers(1, 5)))
    def make(self, name: str, days: int | None) -> None:
        taken = any(who == name and end > self.now for who, end in self.ends.values())
        try:
            more = {} if days is None else {"expires": f"{days}d"}
            self.keyring, _, secret = create(self.keyring, self.base, name, now_ms=self.now, **more)
        except InvalidValue:
            assert taken
            return
        assert not taken
        self.ends[secret] = name, float("inf") if days is None else self.now + days * DAY
        self.live[name] = secret

    @rule(name=st.sampled_from("abc"))
    def revoke(self, name: str) -> None:
        try:
            self.keyring, _ = revoked(self.keyring, name, now_ms=self.now)
        except NotFound:
            assert name not in self.live
            return
        self.until(name, self.now)

    @rule(name=st.sampled_from("abc"), hours=st.sampled_from([0, 0, 1, 30]))
    def rotate(self, name: str, hours: int) -> None:
        newest = self.live.get(name)
        end = self.ends[newest][1] if newest is not None else 0
        olds = sum(who == name and ends > self.now for who, ends in self.ends.values())
        try:
            self.keyring, secret = rotate(self.keyring, self.base, name, hours * 3_600_000, self.now)
        except (InvalidValue, NotFound):
            assert end <= self.now or (olds >= MAX_SECRETS and hours)
            return
        assert end > self.now
        self.until(name, self.now + hours * 3_600_000)
        self.ends[secret] = name, end
        self.live[name] = secret

    @rule(hours=st.integers(1, 60))
    def wait(self, hours: int) -> None:
        self.now += hours * 3_600_000

    @invariant()
    def who_gets_in_is_who_should(self) -> None:
        found = with_keys(self.base, self.keyring, now_ms=self.now)
        assert found.needs_key == bool(self.ends)
        for secret, (name, end) in self.ends.items():
            assert getattr(let_in(found, secret), "name", None) == (name if end > self.now else None)
        ahead = [end for _, end in self.ends.values() if self.now < end < float("inf")]
        assert found.keys_change_ms == min(ahead, default=None)


@prop
def test_over_any_course_of_events_who_gets_in_is_who_should(tmp_path: Path) -> None:
    Course.base = settings(tmp_path)
    run_state_machine_as_test(Course, settings=hypothesis_settings(max_examples=40, stateful_step_count=20, deadline=None))
