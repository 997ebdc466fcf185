"""The life of an alert: raised once, told again only when it gets worse, over after a while, the same after a restart."""

import re
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.accounting.budgets import Budgets
from proxy.accounting.journal import JournalError
from proxy.accounting.quotas import Quotas
from proxy.accounting.records import Alerted
from proxy.accounting.states import BudgetState
from proxy.config.settings import AlertSettings
from proxy.core.alerts import ALERT_KINDS, Levels
from proxy.core.allowance import Ask
from proxy.core.errors import BudgetExceeded
from proxy.core.limits import Budget, Quota
from proxy.core.redact import Redactor
from proxy.core.target import Credential, Provider, Secret
from proxy.monitoring.alerts import DEFAULT_HOLD_S, HOLD_S, MAX_MESSAGE, MAX_OPEN, AlertDesk, Notice
from proxy.monitoring.conditions import Condition, Observation, observe
from proxy.monitoring.query import rfc3339
from tests.engine.harness import settings as settings_of
from tests.engine.harness import target, world

pytestmark = pytest.mark.unit

DOC = Path(__file__).parent.parent.parent / "docs" / "alerts.md"
DAY_S = 86_400.0
START = 1_793_491_200.0  # 2026-11-01, UTC
DOWN = Condition("provider_down", "groq", "error", "groq is down: connect refused.")
ERRORS = Condition("error_rate", "groq", "warning", "6 % of 100 attempts", 0.06, 0.05)
WORSE = replace(ERRORS, severity="error", message="30 % of 100 attempts", value=0.3, threshold=0.2)


class Time:
    def __init__(self, start: float = START) -> None:
        self.start = start
        self.now = 0.0

    def monotonic(self) -> float:
        return 5.0 + self.now

    def wall(self) -> float:
        return self.start + self.now


class RecordingLog:
    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, event: str, **_fields: Any) -> None:
        self.errors.append(event)


class Office:
    """A desk with everything around it. `ledger` is what a reader of the journal makes of it."""

    def __init__(self, time: Time | None = None, ledger: dict[str, dict[str, Any]] | None = None) -> None:
        self.time = time or Time()
        self.ledger = {} if ledger is None else ledger
        self.steps: list[Alerted] = []
        self.told: list[Notice] = []
        self.log = RecordingLog()
        self.broken = False
        self.desk = AlertDesk(
            clock=self.time,
            new_id=lambda: f"alert-{len(self.ledger):05d}",
            append=self.append,
            tell=self.told.append,
            log=self.log,
            redact=Redactor(["hunter2-hunter2"]),
        )

    def append(self, step: Alerted) -> None:
        if self.broken:
            raise JournalError("the disk is full")
        self.steps.append(step)
        moment = step.time_ms / 1000
        if step.action == "raised":
            before = self.ledger.get(step.id, {"raised_at": moment})
            self.ledger[step.id] = {**step._asdict(), "raised_at": before["raised_at"], "acknowledged": None, "resolved": None}
        else:
            self.ledger[step.id][step.action] = moment

    def look(self, *conditions: Condition, unseen: tuple[str, ...] = ()) -> None:
        self.desk.update(conditions, unseen)

    def restarted(self) -> "Office":
        """Another life with the same ledger."""
        office = Office(self.time, self.ledger)
        office.desk.seed(self.rows())
        return office

    def rows(self) -> list[dict[str, Any]]:
        from_wall = {"raised": "raised_at", "acknowledged": "acknowledged"}
        return [
            {name: row[name] for name in ("id", "kind", "severity", "subject", "message", "value", "threshold")}
            | {name: None if row[column] is None else rfc3339(row[column]) for name, column in from_wall.items()}
            | {"resolved": None, "state": "open"}
            for row in self.ledger.values()
            if row["resolved"] is None
        ]

    @property
    def events(self) -> list[tuple[str, str, str]]:
        return [(notice.event, notice.alert["kind"], notice.alert["severity"]) for notice in self.told]

    @property
    def open(self) -> list[str]:
        return [alert["subject"] for alert in self.desk.alerts()]


def test_what_holds_is_raised_once_and_is_over_when_it_has_been_gone_for_a_while() -> None:
    office = Office()
    for _ in range(3):
        office.look(DOWN)
        office.time.now += 5
    assert office.events == [("raised", "provider_down", "error")]
    office.look()
    office.time.now += DEFAULT_HOLD_S - 1
    office.look()
    assert office.open == ["groq"]
    office.time.now += 1
    office.look()
    assert office.open == []
    assert office.events[1:] == [("resolved", "provider_down", "error")]
    assert [step.action for step in office.steps] == ["raised", "resolved"]
    assert {step.id for step in office.steps} == {"alert-00000"}


def test_what_comes_and_goes_is_told_once() -> None:
    office = Office()
    for _ in range(50):
        office.look(DOWN)
        office.time.now += DEFAULT_HOLD_S - 1
        office.look()
        office.time.now += 1
    assert office.events == [("raised", "provider_down", "error")]


def test_an_alert_is_shown_as_the_api_promises() -> None:
    office = Office()
    office.look(ERRORS)
    assert office.desk.alerts() == [
        {
            "id": "alert-00000",
            "kind": "error_rate",
            "severity": "warning",
            "subject": "groq",
            "message": "6 % of 100 attempts",
            "value": 0.06,
            "threshold": 0.05,
            "raised": "2026-11-01T00:00:00.000Z",
            "resolved": None,
            "acknowledged": None,
            "state": "open",
            "help": "docs/troubleshooting.md#error_rate",
        }
    ]
    assert office.desk.counts() == {"info": 0, "warning": 1, "error": 0}


def test_what_gets_worse_is_raised_again_under_its_id_and_what_gets_better_is_not() -> None:
    office = Office()
    office.look(ERRORS)
    assert office.desk.acknowledge("alert-00000") is not None
    office.look(replace(ERRORS, value=0.1, message="10 % of 100 attempts"))
    assert office.desk.alerts()[0]["message"] == "10 % of 100 attempts"
    office.time.now += 60
    office.look(WORSE)
    office.look(ERRORS)
    (alert,) = office.desk.alerts()
    assert (alert["severity"], alert["threshold"], alert["state"]) == ("error", 0.2, "open")
    assert alert["raised"] == "2026-11-01T00:00:00.000Z"
    assert office.events == [("raised", "error_rate", "warning"), ("raised", "error_rate", "error")]
    assert [(step.action, step.severity) for step in office.steps] == [
        ("raised", "warning"),
        ("acknowledged", None),
        ("raised", "error"),
    ]


def test_an_acknowledged_alert_is_still_there_until_it_is_over() -> None:
    office = Office()
    office.look(DOWN)
    office.time.now += 30
    shown = office.desk.acknowledge("alert-00000")
    assert shown is not None
    assert (shown["state"], shown["acknowledged"]) == ("acknowledged", "2026-11-01T00:00:30.000Z")
    office.time.now += 30
    assert office.desk.acknowledge("alert-00000") == shown
    assert office.desk.acknowledge("alert-00001") is None
    assert [step.action for step in office.steps] == ["raised", "acknowledged"]
    assert office.desk.counts()["error"] == 1
    office.look()
    office.time.now += DEFAULT_HOLD_S
    office.look()
    assert office.told[-1].alert["state"] == "resolved"
    assert office.told[-1].alert["resolved"] == "2026-11-01T00:02:00.000Z"


def test_newest_first() -> None:
    office = Office()
    office.look(DOWN)
    office.time.now += 1
    office.look(DOWN, ERRORS)
    assert [alert["kind"] for alert in office.desk.alerts()] == ["error_rate", "provider_down"]


@pytest.mark.parametrize("kind", sorted(ALERT_KINDS))
def test_each_kind_is_over_after_its_time(kind: str) -> None:
    office = Office()
    office.look(Condition(kind, "x", "error", "x", None, 1.0))
    held_s = HOLD_S.get(kind, DEFAULT_HOLD_S)
    office.look()
    if held_s:
        office.time.now += held_s - 0.1
        office.look()
        assert office.open == ["x"]
        office.time.now += 0.1
        office.look()
    assert office.open == []


def test_what_cannot_be_seen_stays_as_it_is() -> None:
    office = Office()
    office.look(DOWN)
    for _ in range(3):
        office.time.now += 10 * DEFAULT_HOLD_S
        office.look(unseen=("provider_down",))
    assert office.open == ["groq"]
    office.look()
    office.time.now += DEFAULT_HOLD_S - 1
    office.look()
    assert office.open == ["groq"]


def test_secrets_and_line_breaks_are_taken_out_of_what_is_told() -> None:
    office = Office()
    office.look(replace(DOWN, message="groq is down: hunter2-hunter2\nsk-abcdefgh12345678 \u202e" + "x" * 1000))
    message = office.desk.alerts()[0]["message"]
    assert message.startswith("groq is down: *** *** ")
    assert len(message) <= MAX_MESSAGE
    assert office.steps[0].message == message


def test_a_journal_that_cannot_be_written_does_not_keep_anything_from_being_told() -> None:
    office = Office()
    office.broken = True
    office.look(DOWN)
    assert office.events == [("raised", "provider_down", "error")]
    assert office.log.errors == ["alert_not_journalled"]


def test_no_more_are_open_than_there_is_room_for() -> None:
    office = Office()
    many = [replace(DOWN, subject=f"p{n}") for n in range(MAX_OPEN)]
    office.look(*many)
    assert (len(office.desk.alerts()), office.log.errors) == (MAX_OPEN, [])
    office.look(*many, DOWN)
    office.look(*many, DOWN)
    assert (len(office.desk.alerts()), office.log.errors) == (MAX_OPEN, ["alerts_full"])
    office.look(DOWN)
    office.time.now += DEFAULT_HOLD_S
    office.look(DOWN)
    office.look(DOWN)
    assert office.open == ["groq"]


# -- restarts


def test_what_was_open_before_a_restart_is_not_told_again() -> None:
    before = Office()
    before.look(DOWN, ERRORS)
    before.desk.acknowledge("alert-00001")
    before.time.now += 30
    after = before.restarted()
    assert after.desk.alerts() == before.desk.alerts()
    after.look(DOWN, ERRORS)
    assert after.told == []
    after.look(DOWN, WORSE)
    assert after.events == [("raised", "error_rate", "error")]


def test_what_is_gone_after_a_restart_is_over() -> None:
    before = Office()
    before.look(DOWN)
    after = before.restarted()
    after.look()
    after.time.now += DEFAULT_HOLD_S
    after.look()
    assert after.events == [("resolved", "provider_down", "error")]


def test_what_was_raised_before_the_ledger_was_read_takes_the_place_of_its_older_self() -> None:
    before = Office()
    before.look(DOWN)
    rows = before.rows()
    late = Office(before.time, before.ledger)
    late.look(DOWN)
    late.desk.seed(rows)
    assert [alert["id"] for alert in late.desk.alerts()] == ["alert-00001"]
    assert [(step.id, step.action) for step in late.steps] == [("alert-00001", "raised"), ("alert-00000", "resolved")]
    late.desk.seed(late.rows())
    assert len(late.steps) == 2


def test_rows_of_kinds_that_are_no_more_are_left_alone() -> None:
    office = Office()
    office.look(DOWN)
    row = office.rows()[0]
    fresh = Office()
    fresh.desk.seed([{**row, "kind": "gone"}, {**row, "severity": "dire"}, {**row, "resolved": row["raised"]}])
    assert (fresh.desk.alerts(), fresh.steps) == ([], [])


# -- once a period


def of_budget(share: float, start: float) -> list[Condition]:
    plain = settings_of(world(target("a"), a=b"").chain)
    state = BudgetState("client", "search", 1000, round(1000 * share), 0, "day", True, start, start + DAY_S)
    return observe(Observation(budgets=[state]), replace(plain, alerts=AlertSettings(budget=(0.5, 0.8, 1.0))))


def test_each_threshold_of_a_budget_is_told_once_a_period() -> None:
    office = Office()
    for day in range(60):
        start = START + day * DAY_S
        for hour in range(24):
            office.time.now = day * DAY_S + hour * 3600 + 1
            office.look(*of_budget(hour / 20, start))
            if hour % 7 == 3:
                office = office.restarted()
    raised = Counter((row["threshold"], int((row["raised_at"] - START) // DAY_S)) for row in office.ledger.values())
    assert raised == {(threshold, day): 1 for threshold in (0.5, 0.8, 1.0) for day in range(60)}
    assert len(office.desk.alerts()) == 3


def test_an_alert_of_last_period_is_over_even_if_the_new_one_is_spent_as_far() -> None:
    office = Office()
    office.look(*of_budget(0.6, START))
    office = office.restarted()
    office.time.now = DAY_S + 5
    office.look(*of_budget(0.6, START + DAY_S))
    assert [(step.id, step.action) for step in office.steps] == [("alert-00000", "resolved"), ("alert-00001", "raised")]


def test_a_higher_limit_ends_an_alert_and_crossing_it_again_is_told_again() -> None:
    office = Office()
    office.look(*of_budget(0.6, START))
    office.look(*of_budget(0.3, START))
    office.look(*of_budget(0.55, START))
    assert [event for event, _, _ in office.events] == ["raised", "resolved", "raised"]


def test_budgets_that_are_not_known_yet_after_a_start_end_nothing() -> None:
    before = Office()
    before.look(*of_budget(0.6, START))
    after = before.restarted()
    after.look(unseen=("budget", "quota"))
    after.look(*of_budget(0.6, START))
    assert after.told == []


def test_sixty_days_of_traffic_tell_each_threshold_exactly_once_a_period_across_zones_and_clock_changes() -> None:
    """With the real accounts. Berlin's clocks go back on 25 October, those of Los Angeles on 1 November."""
    time = Time(datetime(2026, 10, 10, tzinfo=UTC).timestamp())
    stated = [
        Quota("requests", 500, "day", "America/Los_Angeles", 3),
        Quota("tokens", 20_000, "month", "Europe/Berlin", 0),
        Quota("tokens", 40_000, "once"),
        Quota("requests", 260, "day", "Asia/Tokyo", 23, each_key=True),
    ]
    keys = tuple(Credential(name, Secret(f"fake-{name}")) for name in ("0a0a0a0a", "0b0b0b0b"))
    provider = Provider("groq", "openai", "http://groq", keys, quotas=tuple(stated))
    quotas, budgets = Quotas(time), Budgets(time)
    quotas.configure([provider])
    budgets.configure([("total", None, Budget(10_000, "month", hard=False)), ("client", "search", Budget(400, "day"))])
    settings = replace(settings_of(world(target("a"), a=b"").chain), alerts=AlertSettings())
    random = Random(7)
    office = Office(time)
    crossed: Counter[tuple[str, str, float | None, float]] = Counter()
    for half_hour in range(60 * 48):
        time.now = half_hour * 1800.0 + 1
        if random.random() < 0.9:
            key = random.choice(keys)
            for account in [account for account in quotas.of(provider, key) if account.refuses(0.0) is None]:
                account.take(0.0, Ask(100, 100, None, inf)).settle(random.randint(1, 25), random.randint(1, 40), None)
            with suppress(BudgetExceeded):
                budgets.reserve(budgets.of("search", None, None), 0, inf).settle(random.randint(1, 20))
        wall = time.wall()
        observation = Observation(budgets=budgets.states(wall), quotas=quotas.states(wall))
        conditions = observe(observation, settings)
        for condition in conditions:
            assert condition.since is not None
            crossed[condition.kind, condition.subject, condition.threshold, condition.since] = 1
        office.look(*conditions)
        if random.random() < 0.02:
            office = office.restarted()
    raised: Counter[tuple[str, str, float | None, float]] = Counter()
    for row in office.ledger.values():
        starts = [since for kind, subject, _, since in crossed if (kind, subject) == (row["kind"], row["subject"])]
        began = max([since for since in starts if since <= row["raised_at"]])
        raised[row["kind"], row["subject"], row["threshold"], began] += 1
    assert raised == crossed
    assert {subject for _, subject, _, _ in crossed} == {
        "total",
        "client search",
        "groq requests per day",
        "groq tokens per month",
        "groq tokens",
        "groq requests per day, key 0a0a0a0a",
        "groq requests per day, key 0b0b0b0b",
    }
    assert sum(raised.values()) > 200


# -- whatever happens


class Life(RuleBasedStateMachine):
    """Conditions come and go, get worse, time passes, the proxy restarts, somebody acknowledges."""

    subjects = st.sampled_from(["groq", "openai", "mistral"])

    def __init__(self) -> None:
        super().__init__()
        self.office = Office()
        self.holding: dict[str, Condition] = {}

    @rule(subject=subjects, worse=st.booleans())
    def begins(self, subject: str, worse: bool) -> None:
        self.holding[subject] = replace(WORSE if worse else ERRORS, subject=subject)

    @rule(subject=subjects)
    def ends(self, subject: str) -> None:
        self.holding.pop(subject, None)

    @rule(seconds=st.integers(0, 120), blind=st.booleans())
    def looks(self, seconds: int, blind: bool) -> None:
        self.office.time.now += seconds
        if blind:
            self.office.look(unseen=("error_rate",))
        else:
            self.office.look(*self.holding.values())
            assert set(self.holding) <= set(self.office.open)

    @rule(which=st.integers(0, 20))
    def acknowledges(self, which: int) -> None:
        known = {alert["id"] for alert in self.office.desk.alerts()}
        assert (self.office.desk.acknowledge(f"alert-{which:05d}") is not None) == (f"alert-{which:05d}" in known)

    @rule()
    def restarts(self) -> None:
        shown = {(alert["id"], alert["severity"], alert["state"]) for alert in self.office.desk.alerts()}
        self.office = self.office.restarted()
        assert {(alert["id"], alert["severity"], alert["state"]) for alert in self.office.desk.alerts()} == shown

    @invariant()
    def one_alert_a_subject_and_the_ledger_agrees(self) -> None:
        subjects = self.office.open
        assert len(subjects) == len(set(subjects))
        unresolved = {name for name, row in self.office.ledger.items() if row["resolved"] is None}
        assert unresolved == {alert["id"] for alert in self.office.desk.alerts()}
        assert sum(self.office.desk.counts().values()) == len(subjects)


Life.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLife = pytest.mark.property(Life.TestCase)


# -- the documentation


def test_the_documentation_is_the_table() -> None:
    section = DOC.read_text(encoding="utf-8").split("## Kinds")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \| .+ \| .+ \|$", section, flags=re.MULTILINE)
    expected = [
        (kind.name, kind.severity or "by threshold", DEFAULTS[kind.setting] if kind.setting else "none", kind.meaning)
        for kind in ALERT_KINDS.values()
    ]
    assert rows == expected


def levels(given: Levels, unit: str = "") -> str:
    assert given.warning is not None
    assert given.error is not None
    return f"{given.warning:g}{unit}, {given.error:g}{unit}"


_SETTINGS = AlertSettings()
DEFAULTS = {
    "budget": f"`budget`: {', '.join(map(str, _SETTINGS.budget))}",
    "quota": f"`quota`: {', '.join(map(str, _SETTINGS.quota))}",
    "rate_limit": f"`rate_limit`: {_SETTINGS.rate_limit_s:g}s",
    "failover_rate": f"`failover_rate`: {levels(_SETTINGS.failover_rate)}",
    "error_rate": f"`error_rate`: {levels(_SETTINGS.error_rate)}",
    "first_token": f"`first_token`: {levels(_SETTINGS.first_token)}",
    "ledger_lag": f"`ledger_lag`: {levels(_SETTINGS.ledger_lag_s, 's')}",
}
