"""Prices: the table, the file's own, the provider's; against genai-prices itself as the model."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from typing import Any

import genai_prices
import pytest
import yaml
from genai_prices.data import providers as real_providers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.accounting import price_data, pricing
from proxy.accounting.pricing import FREE, PriceBook, charge, dashed_dates, rates_of_price
from proxy.core.target import Price, Provider, Target
from proxy.core.usage import Usage

pytestmark = pytest.mark.unit

NOON = datetime(2026, 6, 15, 12, tzinfo=UTC).timestamp()


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compiled table of the installed release."""
    folder = tmp_path_factory.mktemp("prices")
    price_data.write_table(PriceBook(folder).path)
    return folder


@pytest.fixture
def book(cache_dir: Path) -> PriceBook:
    book = PriceBook(cache_dir)
    assert book.load()
    return book


def target(source: str | None, model: str, *, price: Price | None = None) -> Target:
    provider = Provider(source or "somebody", "openai", "http://127.0.0.1:1/v1", (), price_source=source)
    return Target(provider, model, model, price=price)


def usd(text: str) -> Decimal:
    return Decimal(text)


# -- Rates ---------------------------------------------------------------------------------------------------------------------


def test_a_price_of_the_file_is_exact() -> None:
    rates = rates_of_price(Price(input=usd("0.20"), output=usd("0.60"), cached_input=usd("0.05")))
    usage = Usage(input_tokens=1_000, output_tokens=500, cached_input_tokens=400)
    assert rates.cost_nusd(usage) == 600 * 200 + 400 * 50 + 500 * 600
    assert rates.source == "providers.yaml"


def test_a_missing_price_is_its_parents() -> None:
    rates = rates_of_price(Price(input=usd("3"), output=usd("15")))
    usage = Usage(
        100,
        100,
        cached_input_tokens=40,
        cache_write_tokens=30,
        reasoning_tokens=50,
        input_audio_tokens=10,
        output_audio_tokens=20,
    )
    assert rates.cost_nusd(usage) == 100 * 3_000 + 100 * 15_000


def test_each_kind_has_its_own_price() -> None:
    kinds = Price(usd("1"), usd("2"), usd("3"), usd("4"), usd("5"), usd("6"), usd("7"))
    usage = Usage(
        100,
        100,
        cached_input_tokens=40,
        cache_write_tokens=30,
        reasoning_tokens=50,
        input_audio_tokens=10,
        output_audio_tokens=20,
    )
    want = 20 * 1 + 40 * 3 + 30 * 4 + 10 * 6 + 30 * 2 + 50 * 5 + 20 * 7
    assert rates_of_price(kinds).cost_nusd(usage) == want * 1_000


def test_what_is_written_for_an_hour_costs_more_where_the_table_says_so(book: PriceBook) -> None:
    usage = Usage(1_000, 0, cache_write_tokens=600, cache_write_1h_tokens=500)
    rates = book.rates(target("anthropic", "claude-haiku-4-5"), NOON)  # per million: 1 USD, 1.25 for minutes, 2 for an hour
    assert rates is not None
    assert rates.cost_nusd(usage) == 400 * 1_000 + 100 * 1_250 + 500 * 2_000
    assert rates.bound_nusd(1_000, 0) == 1_000 * 2_000
    of_file = rates_of_price(Price(usd("1"), usd("5"), cache_write=usd("1.25")))
    assert of_file.cost_nusd(usage) == 400 * 1_000 + 600 * 1_250


def test_no_more_is_written_for_an_hour_than_is_written(book: PriceBook) -> None:
    rates = book.rates(target("anthropic", "claude-haiku-4-5"), NOON)
    assert rates is not None
    assert rates.cost_nusd(Usage(10, 0, cache_write_tokens=20, cache_write_1h_tokens=20)) == 10 * 2_000


def test_what_is_billed_is_what_it_costs() -> None:
    rates = rates_of_price(Price(usd("1"), usd("2"), cached_input=usd("0.1")))
    usage = Usage(1_622, 44, cached_input_tokens=1_024, billed=Usage(91, 31))
    assert charge(usage, rates) == (91 * 1_000 + 31 * 2_000, "providers.yaml")
    assert charge(replace(usage, billed=None), rates)[0] == (1_622 - 1_024) * 1_000 + 1_024 * 100 + 44 * 2_000
    assert charge(replace(usage, provider_cost_nusd=7), replace(rates, configured=False)) == (7, "provider")


def test_subsets_that_overlap_are_never_counted_twice() -> None:
    rates = rates_of_price(Price(usd("1"), usd("1"), usd("2"), usd("2"), usd("2"), usd("2"), usd("2")))
    usage = Usage(
        10, 10, cached_input_tokens=8, cache_write_tokens=8, reasoning_tokens=8, input_audio_tokens=8, output_audio_tokens=8
    )
    assert rates.cost_nusd(usage) == 20 * 2_000


@pytest.mark.parametrize(("tokens", "cost"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4)])
def test_one_rounding_half_to_even(tokens: int, cost: int) -> None:
    assert rates_of_price(Price(input=usd("0.0005"), output=usd("0"))).cost_nusd(Usage(tokens, 0)) == cost


def test_prices_finer_than_a_nano_dollar_are_kept_whole() -> None:
    rates = rates_of_price(Price(input=usd("0.00000000000000003"), output=usd("0")))
    assert rates.cost_nusd(Usage(10**14, 0)) == 3


def test_the_bound_covers_every_kind_of_token() -> None:
    rates = rates_of_price(Price(usd("3"), usd("15"), cache_write=usd("3.75"), cached_input=usd("0.3"), reasoning=usd("20")))
    assert rates.bound_nusd(1_000, 100) == 1_000 * 3_750 + 100 * 20_000


def test_who_says_what_it_costs() -> None:
    of_file = rates_of_price(Price(usd("1"), usd("1")))
    of_table = replace(of_file, configured=False, source="genai-prices")
    plain, with_own, with_zero = Usage(1, 1), Usage(1, 1, provider_cost_nusd=7), Usage(1, 1, provider_cost_nusd=0)
    assert charge(plain, None) == (None, None)
    assert charge(plain, of_table) == (2_000, "genai-prices")
    assert charge(with_own, of_table) == (7, "provider")
    assert charge(with_own, None) == (7, "provider")
    assert charge(with_own, of_file) == (2_000, "providers.yaml")
    assert charge(with_zero, of_table) == (2_000, "genai-prices")
    assert charge(with_zero, None) == (0, "provider")


# -- The table -----------------------------------------------------------------------------------------------------------------


def test_an_unknown_model_has_no_price(book: PriceBook) -> None:
    assert book.rates(target("openai", "no-such-model"), NOON) is None
    assert book.rates(target("no-such-provider", "gpt-4o"), NOON) is None
    assert book.rates(target(None, "gpt-4o"), NOON) is None


def test_the_files_price_comes_first(book: PriceBook) -> None:
    rates = book.rates(target("openai", "gpt-4o", price=Price(usd("1"), usd("2"))), NOON)
    assert rates is not None
    assert (rates.source, rates.configured) == ("providers.yaml", True)


def test_the_demo_is_free(book: PriceBook) -> None:
    demo = Target(Provider("demo", "openai", "demo:", (), transport="demo"), "chat", "chat")
    assert book.rates(demo, NOON) is FREE


def test_a_model_that_is_free_by_its_name_is_free(book: PriceBook) -> None:
    rates = book.rates(target("openrouter", "meta-llama/llama-3.1-405b:free"), NOON)
    assert rates is not None
    assert rates.cost_nusd(Usage(1_000, 1_000)) == 0


def test_a_model_that_the_table_lists_without_a_price_has_none(book: PriceBook) -> None:
    assert book.rates(target("google", "gemma-3-27b-it"), NOON) is None


def test_a_model_priced_by_the_hour_has_no_price(book: PriceBook) -> None:
    assert book.rates(target("openai", "whisper-1"), NOON) is None


def test_the_source_names_the_release(book: PriceBook) -> None:
    rates = book.rates(target("openai", "gpt-4o"), NOON)
    assert rates is not None
    assert rates.source == f"genai-prices {version('genai-prices')}"


def test_without_the_package_there_is_no_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pricing, "find_spec", lambda name: None)
    assert pricing.installed_release() == "none"
    lies_in = ModuleSpec("genai_prices", None, origin=str(tmp_path / "site-packages/genai_prices/__init__.py"))
    monkeypatch.setattr(pricing, "find_spec", lambda name: lies_in)
    assert pricing.installed_release() == "none"
    (tmp_path / "site-packages/genai_prices-1.2.3.dist-info").mkdir(parents=True)
    assert pricing.installed_release() == "1.2.3"


def test_the_context_window_is_the_files_then_the_tables(book: PriceBook) -> None:
    known = target("openai", "gpt-4o")
    assert book.context_window(known) == 128_000
    assert book.context_window(replace(known, context=7)) == 7
    assert book.context_window(target("openai", "no-such-model")) is None


def test_a_price_that_depends_on_the_hour_changes_at_the_hour(book: PriceBook) -> None:
    chat = target("deepseek", "deepseek-reasoner")
    usage = Usage(1_000_000, 1_000_000)
    day = datetime(2025, 3, 1, tzinfo=UTC).timestamp()
    costs = []
    for second in (0, 1_799, 1_800, 59_399, 59_400, 86_399):  # off-peak is 16:30 to 00:30
        rates = book.rates(chat, day + second)
        assert rates is not None
        costs.append(rates.cost_nusd(usage))
    wanted = [
        genai_prices.calc_price(
            genai_prices.Usage(input_tokens=1_000_000, output_tokens=1_000_000),
            "deepseek-reasoner",
            provider_id="deepseek",
            genai_request_timestamp=datetime.fromtimestamp(day + second, UTC),
        ).total_price
        for second in (0, 1_799, 1_800, 59_399, 59_400, 86_399)
    ]
    assert costs == [int(price * 10**9) for price in wanted]
    assert len(set(costs)) == 2


def test_rates_are_remembered_up_to_a_bound(book: PriceBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "MAX_REMEMBERED", 3)
    targets = [target("openai", "gpt-4o") for _ in range(4)]
    first = [book.rates(each, NOON) for each in targets]
    assert len(book._remembered) == 3
    assert book.rates(targets[3], NOON) is first[3]


def test_every_price_source_of_the_catalogue_is_in_the_table(book: PriceBook) -> None:
    catalogue = yaml.safe_load((Path(price_data.__file__).parents[1] / "catalogue.yaml").read_text())
    sources = {source for stanza in _mappings(catalogue) if (source := stanza.get("price_source"))}
    assert "openai" in sources
    assert sorted(source for source in sources if not book.knows(source)) == []


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _mappings(inner)


@pytest.mark.parametrize(
    ("model", "dashed"),
    [
        ("gpt-5.2-20251211", "gpt-5.2-2025-12-11"),
        ("gpt-5.2-20251211-preview", "gpt-5.2-2025-12-11-preview"),
        ("m-20250230", "m-20250230"),
        ("m-202512110", "m-202512110"),
        ("m", "m"),
    ],
)
def test_compact_dates_are_tried_with_dashes(model: str, dashed: str) -> None:
    assert dashed_dates(model) == dashed


# -- Where the table comes from ------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_table_is_compiled_once_by_a_child(tmp_path: Path) -> None:
    book = PriceBook(tmp_path / "cache")
    assert book.rates(target("openai", "gpt-4o"), NOON) is None
    await book.warm()
    assert (book.ready, book.problem) == (True, None)
    assert book.rates(target("openai", "gpt-4o"), NOON) is not None
    before = book.path.stat()
    again = PriceBook(tmp_path / "cache")
    await again.warm()
    assert again.ready
    assert (book.path.stat().st_ino, book.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [book.path.name]


@pytest.mark.anyio
async def test_a_folder_that_cannot_be_written_means_no_prices_and_no_exception(tmp_path: Path) -> None:
    blocked = tmp_path / "cache"
    blocked.write_text("a file where the folder should be")
    book = PriceBook(blocked)
    await book.warm()
    assert not book.ready
    assert book.problem is not None
    assert "cannot be written" in book.problem
    assert book.rates(target("openai", "gpt-4o"), NOON) is None
    assert book.rates(target("openai", "gpt-4o", price=Price(usd("1"), usd("2"))), NOON) is not None


@pytest.mark.anyio
async def test_an_interpreter_that_cannot_be_started_is_a_problem_not_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing-here"))
    book = PriceBook(tmp_path)
    await book.warm()
    assert book.problem is not None
    assert not book.ready


@pytest.mark.parametrize("damage", ["", "{}", "[]\n{}", "\x00", "cut", "flip", "version"])
def test_a_damaged_table_is_not_believed(cache_dir: Path, tmp_path: Path, damage: str) -> None:
    whole = PriceBook(cache_dir).path.read_bytes()
    book = PriceBook(tmp_path)
    match damage:
        case "cut":
            book.path.write_bytes(whole[:-100])
        case "flip":
            book.path.write_bytes(whole[:5_000] + bytes([whole[5_000] ^ 1]) + whole[5_001:])
        case "version":
            header, _, body = whole.partition(b"\n")
            book.path.write_bytes(json.dumps(json.loads(header) | {"version": "0.0.1"}).encode() + b"\n" + body)
        case text:
            book.path.write_bytes(text.encode())
    assert not book.load()
    assert not book.ready


@pytest.mark.anyio
async def test_a_damaged_table_is_made_anew(tmp_path: Path) -> None:
    book = PriceBook(tmp_path)
    book.path.write_bytes(b"nonsense")
    await book.warm()
    assert book.ready


def test_a_table_that_cannot_be_written_leaves_no_scraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        price_data.write_table(tmp_path / "prices.jsonl")
    assert list(tmp_path.iterdir()) == []


# -- Against the package itself ------------------------------------------------------------------------------------------------


@cache
def references() -> list[tuple[str, str]]:
    """(provider, model name) pairs: each model's id, and each name and stem in its clauses."""

    def words(clause: Any) -> Iterator[str]:
        for name in ("equals", "starts_with", "ends_with", "contains"):
            if hasattr(clause, name):
                yield getattr(clause, name)
        for each in getattr(clause, "or_", None) or getattr(clause, "and_", None) or ():
            yield from words(each)

    return sorted(
        {
            (provider.id, name)
            for provider in real_providers
            for model in provider.models
            for name in (model.id, *words(model.match))
        }
    )


def reference_cost(provider: str, model: str, usage: Usage, moment: datetime) -> tuple[int | None, bool]:
    """What the package says, rounded once, and whether it found any input price."""
    found = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_reasoning_tokens=usage.reasoning_tokens,
        input_audio_tokens=usage.input_audio_tokens,
        output_audio_tokens=usage.output_audio_tokens,
        cache_audio_read_tokens=0,
        cache_audio_write_tokens=0,
        output_audio_reasoning_tokens=0,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
    )
    try:
        price = genai_prices.calc_price(found, model, provider_id=provider, genai_request_timestamp=moment)
    except LookupError:
        return None, False
    cost = (price.total_price * 10**9).to_integral_value(ROUND_HALF_EVEN)
    return int(cost), price.model_price.input_mtok is not None


tokens = st.integers(0, 400_000)


@pytest.mark.property
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    reference=st.integers(0, 1_000_000),
    parts=st.tuples(tokens, tokens, tokens, tokens, tokens, tokens, tokens, tokens),
    moment=st.integers(1_704_067_200, 1_830_211_200),
)
def test_costs_equal_those_of_genai_prices(book: PriceBook, reference: int, parts: tuple[int, ...], moment: int) -> None:
    provider, model = references()[reference % len(references())]
    plain, cached, fleeting, lasting, audio, said, thought, spoken = parts
    written = fleeting + lasting
    usage = Usage(
        plain + cached + written + audio,
        said + thought + spoken,
        cached,
        written,
        thought,
        audio,
        spoken,
        cache_write_1h_tokens=lasting,
    )
    wanted, priced = reference_cost(provider, model, usage, datetime.fromtimestamp(moment, UTC))
    rates = book.rates(target(provider, model), moment)
    if rates is None:
        assert not priced
    elif rates is not FREE:
        assert rates.cost_nusd(usage) == wanted
        assert rates.cost_nusd(usage) <= rates.bound_nusd(usage.input_tokens, usage.output_tokens)


def test_every_name_in_the_table_is_found_and_priced_as_by_the_package(book: PriceBook) -> None:
    usage = Usage(300_000, 20_000, 100_000, 50_000, 5_000, cache_write_1h_tokens=20_000)
    moment = datetime(2026, 6, 15, 12, tzinfo=UTC)
    differing = []
    for provider, model in references():
        wanted, priced = reference_cost(provider, model, usage, moment)
        rates = book.rates(target(provider, model), moment.timestamp())
        mine = None if rates is None else rates.cost_nusd(usage)
        if (rates is None and priced) or (rates is not None and mine != wanted):
            differing.append((provider, model, wanted, mine))
    assert not differing
