"""The board of cards: who is asked when, what it costs, how long a result is kept, and what is written down of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer

from proxy.accounting.journal import JournalError
from proxy.accounting.records import Checked
from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.core.errors import LedgerUnavailable
from proxy.core.target import Provider
from proxy.monitoring.checker import AGAIN_S, TELL_S, UPTIME_S, HealthBoard
from proxy.monitoring.live import LiveTraffic
from proxy.monitoring.states import MAX_OTHERS
from proxy.routing.deployment import Deployments
from proxy.routing.verdict import Effect
from proxy.telemetry.metrics import Metrics
from tests.monitoring.virtual import Upstreams, VirtualClock, settle

pytestmark = [pytest.mark.unit, pytest.mark.anyio]

FILE = """
providers:
  one: {dialect: openai, base_url: "https://one.test/v1", api_key: "sk-one-secret-1111"}
  two: {dialect: openai, base_url: "https://two.test/v1", api_keys: ["sk-two-secret-2222", "sk-two-secret-3333"]}
  off: {dialect: openai, base_url: "https://off.test/v1", api_key: "sk-off-secret-4444", enabled: false}
  shy: {dialect: vertex, project: p, location: global}
chains:
  smart: [one/a, two/b]
  "x-*": [two/*, one/*]
"""


def read(directory: Path, text: str = FILE, environ: Mapping[str, str] | None = None) -> Settings:
    path = directory / "providers.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ=environ or {})


class Board:
    """A board with everything around it."""

    def __init__(self, found: Settings, upstreams: Upstreams | None = None, **more: Any) -> None:
        self.settings = found
        self.clock = VirtualClock()
        self.upstreams = upstreams or Upstreams()
        self.deployments = Deployments(lambda: 0.5)
        self.metrics = Metrics()
        self.records: list[Checked] = []
        transports = {"native": self.upstreams, "httpx": self.upstreams}
        self.board = HealthBoard(
            lambda: self.settings,
            self.clock,
            transports=more.pop("transports", transports),
            deployments=self.deployments,
            live=LiveTraffic(self.metrics, self.clock.monotonic()),
            records=more.pop("records", self),
            sleep=self.clock.sleep,
            **more,
        )

    def append(self, record: Checked) -> None:
        self.records.append(record)

    def card(self, name: str) -> Any:
        found = self.board.card(name)
        assert found is not None
        return found

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.board.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self.board.aclose()

    async def refresh(self, *names: str, fresh: bool = False) -> None:
        """Time passes where a failed check waits for its second try."""
        task = asyncio.create_task(self.board.refresh(names or None, fresh))
        while not task.done():
            await self.clock.advance(0.5)
        await task

    def call(self, provider: str, effect: Effect, *, model: str = "a") -> None:
        """One call, with all that is counted of it."""
        target = self.settings.direct(provider, model)
        deployment = self.deployments.get(target, target.provider.credentials[0])
        permit = deployment.acquire(self.clock.monotonic())
        assert permit is not None
        permit.release(effect, self.clock.monotonic())
        self.metrics.attempt_ended(provider, target.label, "ok" if effect is Effect.OK else "server_error", 0.1, 0.1)


# -- what is asked

FREE_PATHS = {
    "openai": ["https://api.openai.com/v1/models"],
    "azure": ["https://mine.openai.azure.com/openai/v1/models"],
    "anthropic": ["https://api.anthropic.com/v1/models?limit=1000"],
    "gemini": ["https://generativelanguage.googleapis.com/v1beta/models?pageSize=1000"],
    "vertex": [],
    "bedrock": [],
    "cohere": ["https://api.cohere.com/v1/models?page_size=1000"],
    "ollama": ["http://127.0.0.1:11434/api/tags"],
    "groq": ["https://api.groq.com/openai/v1/models"],
    "together": ["https://api.together.ai/v1/models"],
    "openrouter": ["https://openrouter.ai/api/v1/key"],
    "huggingface": ["https://huggingface.co/api/whoami-v2", "https://router.huggingface.co/v1/models"],
    "deepseek": ["https://api.deepseek.com/models"],
    "xai": ["https://api.x.ai/v1/models"],
    "moonshot": ["https://api.moonshot.ai/v1/models"],
    "dashscope": [],
    "mistral": ["https://api.mistral.ai/v1/models"],
    "ai21": [],
    "fireworks": ["https://api.fireworks.ai/inference/v1/models"],
    "cerebras": ["https://api.cerebras.ai/v1/models"],
    "perplexity": [],
    "nvidia": ["https://integrate.api.nvidia.com/v1/models"],
    "sambanova": ["https://api.sambanova.ai/v1/models"],
    "zai": [],
    "github": [],
    "vllm": ["http://127.0.0.1:8000/v1/models"],
    "llamacpp": ["http://127.0.0.1:8080/v1/models"],
    "lmstudio": ["http://127.0.0.1:1234/v1/models"],
    "demo": [],
}


def whole_catalogue(directory: Path) -> Settings:
    places = {"vertex": {"project": "p", "location": "global"}, "bedrock": {"region": "eu-west-1"}}
    stanzas = {name: {"api_key": f"sk-{name}-0123456789"} | places.get(name, {}) for name in FREE_PATHS if name != "demo"}
    stanzas["azure"]["base_url"] = "https://mine.openai.azure.com"
    for name in ("vertex", "bedrock"):
        del stanzas[name]["api_key"]
    return read(
        directory,
        json.dumps({"server": {"port": 9}, "providers": stanzas, "chains": {"all": [f"{name}/m" for name in FREE_PATHS]}}),
    )


async def test_an_hour_of_checks_of_the_whole_catalogue_asks_only_what_is_free(tmp_path: Path) -> None:
    found = whole_catalogue(tmp_path)
    assert set(found.providers) == set(FREE_PATHS), "the table has every provider of the catalogue"
    at = Board(found)
    async with at.running():
        await at.clock.advance(3_600.4)
    asked = [(head.method, f"{head.origin.scheme}://{head.origin.authority}{head.path}") for head in at.upstreams.asked]
    assert {method for method, _ in asked} == {"GET"}, "no completion, so nothing that is billed"
    assert sorted({url for _, url in asked}) == sorted(url for urls in FREE_PATHS.values() for url in urls)
    for urls in FREE_PATHS.values():
        for url in urls:
            assert [told for _, told in asked].count(url) == 60, "once a minute"
    states = {card.name: card.state for card in at.board.cards()}
    assert states == {name: "healthy" if urls or name == "demo" else "unknown" for name, urls in FREE_PATHS.items()}


async def test_whoever_stays_unknown_is_told_why(tmp_path: Path) -> None:
    at = Board(whole_catalogue(tmp_path))
    await at.refresh()
    notes = {card.name: card.note for card in at.board.cards() if card.state == "unknown"}
    assert notes == {
        "vertex": "it has no free check that its credentials could be sent to: only traffic tells",
        "bedrock": "it has no free check that its credentials could be sent to: only traffic tells",
        **dict.fromkeys(
            ("dashscope", "ai21", "perplexity", "zai", "github"), "it has no model list to ask for: only traffic tells"
        ),
    }


@pytest.mark.parametrize(
    ("stanza", "asked"),
    [
        ("huggingface: {api_key: hf_0123456789ab}", "https://huggingface.co/api/whoami-v2"),
        # its key may be no Hugging Face token at all, and is nobody else's to see
        ('huggingface: {api_key: hf_0123456789ab, base_url: "https://mine.test/v1"}', None),
        ('openrouter: {api_key: sk-0123456789ab, base_url: "https://mine.test/v1"}', "https://mine.test/v1/key"),
        ('mine: {dialect: openai, base_url: "https://mine.test/v1"}', None),
    ],
)
async def test_a_key_is_asked_about_only_where_it_belongs(tmp_path: Path, stanza: str, asked: str | None) -> None:
    found = read(tmp_path, f"providers:\n  {stanza}\n")
    assert next(iter(found.providers.values())).check_url == asked


async def test_every_key_is_asked_for(tmp_path: Path) -> None:
    at = Board(read(tmp_path))
    await at.refresh()
    sent = [value for head in at.upstreams.asked for name, value in head.headers if name == b"authorization"]
    assert sorted(sent) == [b"Bearer sk-one-secret-1111", b"Bearer sk-two-secret-2222", b"Bearer sk-two-secret-3333"]
    assert at.card("two").keys == 2


# -- how long it is kept


async def test_a_result_is_kept_for_its_interval_unless_asked_anew(tmp_path: Path) -> None:
    at = Board(read(tmp_path, FILE + "health: {interval: 30s}\n"))
    for moment, fresh, asked in [(0, False, 1), (29, False, 1), (0, True, 2), (29, False, 2), (1, False, 3)]:
        await at.clock.advance(moment)
        await at.board.refresh(["one"], fresh)
        assert len(at.upstreams.paths("one.test")) == asked
    assert at.upstreams.paths("two.test") == []


async def test_who_asks_while_a_check_runs_waits_for_that_one(tmp_path: Path) -> None:
    at = Board(read(tmp_path))
    await asyncio.gather(*(at.board.refresh(["one"], fresh=True) for _ in range(50)))
    assert len(at.upstreams.paths("one.test")) == 1


async def test_a_caller_who_leaves_does_not_take_the_check_with_it(tmp_path: Path) -> None:
    at = Board(read(tmp_path))
    leaver = asyncio.create_task(at.board.refresh(["one"]))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    await settle()
    assert at.card("one").state == "healthy"
    assert len(at.upstreams.paths("one.test")) == 1


async def test_another_key_or_address_makes_the_old_result_void(tmp_path: Path) -> None:
    at = Board(read(tmp_path), Upstreams(lambda host: 401))
    await at.refresh()
    assert at.card("one").state == "down"
    at.settings = read(tmp_path, FILE.replace("sk-one-secret-1111", "sk-one-secret-5555"))
    assert (at.card("one").state, at.card("two").state) == ("unknown", "down")
    at.upstreams.say = lambda host: 200
    await at.refresh()
    assert (at.card("one").state, at.card("two").state) == ("healthy", "down"), "the other result is still young"


async def test_what_is_off_or_gone_is_not_asked(tmp_path: Path) -> None:
    at = Board(read(tmp_path))
    await at.refresh(fresh=True)
    assert at.upstreams.paths("off.test") == []
    card = at.card("off")
    assert (card.state, card.reason, card.checked, card.note) == ("disabled", "disabled in the file", None, None)
    at.settings = read(tmp_path, "providers: {}\n")
    assert at.board.cards() == [], "the demo has a card where something leads to it"
    at.settings = read(tmp_path, "chains: {d: [demo/chat]}\n")
    assert [(card.name, card.state, card.note) for card in at.board.cards()] == [
        ("demo", "healthy", "it is built in and needs no check")
    ]


# -- down and up again


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Connection refused", "cannot connect to one.test: Connection refused"),
        (503, "it answered 503"),
        (401, "the key is refused: refused with 401"),
    ],
)
async def test_down_is_seen_within_an_interval_and_a_timeout_and_so_is_recovery(
    tmp_path: Path, answer: int | str, reason: str
) -> None:
    at = Board(read(tmp_path))
    interval_s, timeout_s = 60.0, 10.0
    async with at.running():
        await at.clock.advance(5)
        assert at.card("one").state == "healthy"
        at.upstreams.say = lambda host: answer if host == "one.test" else 200
        await at.clock.advance(interval_s + timeout_s)
        card = at.card("one")
        assert (card.state, card.reason) == ("down", reason)
        assert card.error == card.last_error == reason.removeprefix("the key is refused: ")
        assert at.card("two").state == "healthy"
        at.upstreams.say = lambda host: 200
        await at.clock.advance(interval_s + timeout_s)
        card = at.card("one")
        assert (card.state, card.reason, card.error) == ("healthy", None, None)
        assert card.last_error is not None, "what was wrong last stays to be read"
        assert card.last_error_at < card.checked


async def test_one_bad_answer_is_not_down(tmp_path: Path) -> None:
    answers = iter([503, 200])
    at = Board(read(tmp_path), Upstreams(lambda host: next(answers, 200) if host == "one.test" else 200))
    await at.refresh("one")
    assert at.card("one").state == "healthy"
    assert len(at.upstreams.paths("one.test")) == 2


async def test_silence_ends_with_the_timeout(tmp_path: Path) -> None:
    at = Board(read(tmp_path, FILE + "health: {timeout: 100ms}\n"), Upstreams(lambda host: "hang" if host == "one.test" else 200))
    async with asyncio.timeout(30):
        await at.board.refresh()
    card = at.card("one")
    assert (card.state, card.reason, card.response_ms) == ("down", "no answer within 0.1 s", None)
    assert at.card("two").state == "healthy"


async def test_calls_that_succeed_have_a_failed_check_repeated_soon(tmp_path: Path) -> None:
    at = Board(read(tmp_path), Upstreams(lambda host: 503))
    async with at.running():
        await at.clock.advance(5)
        assert at.card("one").state == "down"
        at.upstreams.say = lambda host: 200
        at.call("one", Effect.OK)
        await at.clock.advance(1)
        assert (at.card("one").state, at.card("one").reason) == ("degraded", "the check fails (it answered 503), calls succeed")
        await at.clock.advance(2 * AGAIN_S)
        assert at.card("one").state == "healthy"
        assert at.card("two").state == "down", "nobody called it"


# -- traffic


async def test_an_open_circuit_turns_the_card_whatever_the_check_says(tmp_path: Path) -> None:
    at = Board(read(tmp_path))
    await at.refresh()
    for _ in range(5):
        at.call("one", Effect.FAIL)
    await at.clock.advance(1)
    at.board.sample()
    card = at.card("one")
    assert (card.state, card.reason, card.circuit) == ("down", "circuit open", "open")
    assert (card.error_rate, card.requests_per_minute) == (1.0, 60.0)
    assert (card.error, card.last_error) == (None, "a call failed: server_error")
    assert [(row["model"], row["state"], row["failed"]) for row in card.targets] == [("a", "down", 5)]
    await at.clock.advance(60)
    assert (at.card("one").state, at.card("one").circuit) == ("degraded", "open"), "whoever asks next probes it"


async def test_what_a_removed_key_did_is_forgotten(tmp_path: Path) -> None:
    at = Board(read(tmp_path))
    at.call("one", Effect.AUTH)
    await at.clock.advance(1)
    assert (at.card("one").state, at.card("one").key_valid) == ("down", False)
    at.settings = read(tmp_path, FILE.replace("sk-one-secret-1111", "sk-one-secret-5555"))
    assert (at.card("one").state, at.card("one").key_valid) == ("unknown", None)


async def test_rate_limits_are_shown_and_count(tmp_path: Path) -> None:
    class Limit:
        provider, unit, limit, remaining, resets_s = "one", "requests", 30, 2, 12.5

    at = Board(read(tmp_path), limits=lambda: [Limit()])
    await at.refresh()
    card = at.card("one")
    assert (card.state, card.reason) == ("degraded", "near its rate limit: 2 of 30 requests left")
    assert card.as_dict()["rate_limit"] == {"requests": {"limit": 30, "remaining": 2, "resets_s": 12.5}, "tokens": None}
    assert at.card("two").as_dict()["rate_limit"] == {"requests": None, "tokens": None}


# -- the cards


async def test_a_card_says_where_a_provider_stands(tmp_path: Path) -> None:
    at = Board(read(tmp_path))
    assert at.card("one").roles == [
        {"chain": "smart", "role": "primary", "position": 1},
        {"chain": "x-*", "role": "fallback", "position": 2},
    ]
    assert at.card("two").roles == [
        {"chain": "smart", "role": "fallback", "position": 2},
        {"chain": "x-*", "role": "primary", "position": 1},
    ]
    assert at.card("shy").roles == []


async def test_no_card_holds_a_key(tmp_path: Path) -> None:
    at = Board(read(tmp_path), Upstreams(lambda host: 401))
    await at.refresh()
    told = json.dumps([card.as_dict() for card in at.board.cards()])
    assert not [secret for secret in at.settings.secrets() if secret in told]


async def test_without_a_server_only_checks_tell(tmp_path: Path, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/v1/models").respond_with_data('{"data": [{"id": "a"}]}')
    text = FILE.replace("https://one.test/v1", httpserver.url_for("/v1")).replace("https://two.test", "http://127.0.0.1:1")
    found = read(tmp_path, text + "health: {timeout: 1s}\n")

    class Clock:
        monotonic = staticmethod(time.monotonic)
        wall = staticmethod(time.time)

    board = HealthBoard(lambda: found, Clock())
    await board.refresh()
    await board.aclose()
    one, two, off, shy = board.cards()
    assert (one.state, one.models, one.key_valid) == ("healthy", 1, True)
    assert one.response_ms is not None
    assert one.response_ms > 0
    assert (two.state, off.state, shy.state) == ("down", "disabled", "unknown")
    for unseen in (one.circuit, one.in_flight, one.requests_per_minute, one.error_rate, one.first_token_ms, one.uptime["day"]):
        assert unseen is None, "unknown is None, never 0"


@pytest.mark.performance
@pytest.mark.parametrize(("models", "most_s"), [(5, 0.010), (50, 0.050)])
async def test_cards_of_twenty_providers_are_ready_in_ten_milliseconds(tmp_path: Path, models: int, most_s: float) -> None:
    stanzas = {f"p{n}": {"dialect": "openai", "base_url": f"https://p{n}.test/v1", "api_key": f"sk-{n}"} for n in range(20)}
    at = Board(read(tmp_path, json.dumps({"providers": stanzas})))
    for provider in stanzas:
        for model in range(models):
            at.call(provider, Effect.OK, model=f"m{model}")
    await at.refresh()
    at.board.sample()
    taken = []
    for _ in range(20):
        began = time.process_time()
        at.board.cards()
        taken.append(time.process_time() - began)
    assert sorted(taken)[10] < most_s


def test_of_many_models_that_callers_name_the_last_tried_are_shown(tmp_path: Path) -> None:
    at = Board(read(tmp_path))
    for n in range(MAX_OTHERS + 1):
        at.clock.now += 1
        at.call("one", Effect.OK, model=f"m{n:03}")
    shown = [row["model"] for row in at.card("one").targets]
    assert shown == ["a", *[f"m{n:03}" for n in range(1, MAX_OTHERS + 1)]], "the chain's own first, and not the oldest"


# -- history


async def test_a_state_is_journalled_when_it_changes_and_every_quarter_of_an_hour(tmp_path: Path) -> None:
    at = Board(read(tmp_path))
    async with at.running():
        await at.clock.advance(TELL_S + 30)
        at.upstreams.say = lambda host: "Connection refused" if host == "one.test" else 200
        await at.clock.advance(70)
    told = [(record.state, record.reason) for record in at.records if record.provider == "one"]
    assert told == [
        ("healthy", None),
        ("healthy", None),
        ("down", "cannot connect to one.test: Connection refused"),
    ]
    first = next(record for record in at.records if record.provider == "one")
    assert (first.models, first.key_valid) == (2, True)
    assert abs(first.time_ms / 1000 - at.clock.wall()) < TELL_S + 120
    assert {record.provider for record in at.records} == {"one", "two"}, "nothing is known of the others"


async def test_a_journal_that_cannot_be_written_gets_the_state_later(tmp_path: Path) -> None:
    class Full:
        full = True
        records: list[Checked] = []  # noqa: RUF012 - of the one that there is

        def append(self, record: Checked) -> None:
            if self.full:
                raise JournalError("the disk is full")
            self.records.append(record)

    journal = Full()
    at = Board(read(tmp_path), records=journal)
    await at.refresh()
    at.board.sample()
    assert at.card("one").state == "healthy"
    journal.full = False
    at.board.sample()
    assert {record.provider for record in journal.records} == {"one", "two"}


async def test_uptime_is_read_once_a_minute_and_a_sick_ledger_changes_nothing(tmp_path: Path) -> None:
    asked: list[int] = []

    async def uptime(wall_ms: int) -> Mapping[str, Mapping[str, float | None]]:
        asked.append(wall_ms)
        if len(asked) > 1:
            raise LedgerUnavailable("the ledger cannot be read")
        return {"one": {"day": 0.99, "week": 1.0, "month": None}}

    at = Board(read(tmp_path), uptime=uptime)
    async with at.running():
        await at.clock.advance(UPTIME_S - 10)
        assert len(asked) == 1
        await at.clock.advance(UPTIME_S)
        assert len(asked) == 2
    assert abs(asked[0] / 1000 - at.clock.wall()) < 2 * UPTIME_S
    assert at.card("one").uptime == {"day": 0.99, "week": 1.0, "month": None}
    assert at.card("two").uptime == {"day": None, "week": None, "month": None}


async def test_a_look_that_fails_ends_nothing_and_is_told_once(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    broken = True

    class Log:
        def error(self, event: str, **fields: Any) -> None:
            told.append({"event": event, **fields})

    def limits() -> list[Any]:
        if broken:
            raise RuntimeError("no limits today")
        return []

    at = Board(read(tmp_path), limits=limits, log=Log())
    async with at.running():
        await at.clock.advance(30)
        assert told == [
            {"event": "health_cannot_look", "fault": "RuntimeError('no limits today')", "next": "looks again"},
        ]
        broken = False
        await at.clock.advance(30)
        assert at.card("one").state == "healthy"


# -- what costs


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_completion_is_asked_for_only_where_the_file_allows_it_and_nothing_is_free(tmp_path: Path, allowed: bool) -> None:
    called: list[str] = []
    found = read(tmp_path, FILE + f"health: {{lightest_call: {str(allowed).lower()}}}\n")
    at = Board(found)

    async def lightest(provider: Provider) -> None:
        called.append(provider.name)
        at.call(provider.name, Effect.OK)

    at.board = HealthBoard(
        lambda: found,
        at.clock,
        transports={"native": at.upstreams},
        deployments=at.deployments,
        lightest_call=lightest,
        sleep=at.clock.sleep,
    )
    async with at.running():
        await at.clock.advance(130)
    assert called == (["shy"] * 3 if allowed else [])
    card = at.card("shy")
    told = "a call of one token asks it" if allowed else "only traffic tells"
    assert (card.state, card.checked) == ("healthy" if allowed else "unknown", None)
    assert card.note == f"it has no free check that its credentials could be sent to: {told}"


# -- whatever happens

STATE_OF: dict[int | str, str] = {200: "healthy", 401: "down", 503: "down", "Connection refused": "down", 404: "unknown"}


@pytest.mark.property
@settings(max_examples=25, deadline=None)
@given(events=st.lists(st.tuples(st.sampled_from(list(STATE_OF)), st.floats(0.0, 200.0)), min_size=1, max_size=6))
async def test_the_card_follows_the_provider_whatever_it_does(
    events: list[tuple[int | str, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    now: list[int | str] = [200]
    at = Board(read(tmp_path_factory.mktemp("board")), Upstreams(lambda host: now[0]))
    async with at.running():
        for answer, seconds in events:
            now[0] = answer
            await at.clock.advance(seconds)
        await at.clock.advance(71)
        assert at.card("one").state == STATE_OF[now[0]]
    told = [(record.state, record.time_ms) for record in at.records if record.provider == "one"]
    for (before, then), (after, later) in pairwise(told):
        assert before != after or later - then >= TELL_S * 1000, "no state is told twice without need"
    assert len(at.upstreams.paths("one.test")) <= 2 * (sum(seconds for _, seconds in events) + 71) / 60 + 4


def test_the_board_is_given_a_callable_of_settings_so_that_a_reload_needs_no_word(tmp_path: Path) -> None:
    first, second = read(tmp_path), read(tmp_path, FILE.replace("one:", "uno:").replace("one/", "uno/"))
    held = [first]
    board = HealthBoard(lambda: held[0], VirtualClock(), transports={})
    assert [card.name for card in board.cards()] == ["one", "two", "off", "shy"]
    held[0] = second
    assert [card.name for card in board.cards()] == ["uno", "two", "off", "shy"]
