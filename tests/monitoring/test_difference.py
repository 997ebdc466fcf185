"""What two configurations differ in, in words, and never a secret among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.monitoring.difference import Change, differences

pytestmark = pytest.mark.unit

BASE = """\
providers:
  openai: {api_key: sk-fake-openai-key-0001, prices: {"*": {input: 1, output: 2}}}
  groq: {api_key: gsk-fake-groq-key-0001, timeouts: {first_token: 20s}}
chains:
  smart: [openai/gpt-4o, groq/llama]
"""
EVERYTHING = """\
server: {port: 9000, max_body: 64MiB}
retention: {requests: 30d}
auth: {admin_token: an-admin-token-0001}
data_dir: elsewhere
"""
ENVIRON = {"MISTRAL_API_KEY": "mistral-fake-key-1"}


def settings(folder: Path, name: str, text: str) -> Settings:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load(path, environ=ENVIRON)


def told(folder: Path, old: str, new: str) -> list[tuple[str, str]]:
    return [
        (change.where, change.what) for change in differences(settings(folder, "a.yaml", old), settings(folder, "b.yaml", new))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def base(folder: Path) -> Settings:
    return settings(folder, "base.yaml", BASE)


# (what of BASE, what instead) or what is added at its end -> what is told
CASES: dict[str, tuple[tuple[str, str] | str, list[tuple[str, str]]]] = {
    "nothing": ("", []),
    "a comment": ("# other words\n", []),
    "a key": (("key-0001, prices", "key-0002, prices"), [("provider openai", "its key is changed")]),
    "more keys": (
        ("api_key: gsk-fake-groq-key-0001", "api_keys: [gsk-fake-groq-key-0001, gsk-fake-groq-key-0002]"),
        [("provider groq", "keys: 1 → 2")],
    ),
    "an address": (
        ("{api_key: gsk", '{base_url: "http://10.0.0.5/v1", api_key: gsk'),
        [("provider groq", "base_url: https://api.groq.com/openai/v1 → http://10.0.0.5/v1")],
    ),
    "a header": (("{api_key: gsk", "{headers: {x-team: hush}, api_key: gsk"), [("provider groq", "header x-team: set")]),
    "a timeout": (("first_token: 20s", "first_token: 500ms"), [("target groq/llama", "timeouts.first_token: 20 s → 500 ms")]),
    "a price": (("output: 2}", "output: 2.5}"), [("target openai/gpt-4o", "price.output: $2 per million → $2.5 per million")]),
    "an order": (
        ("[openai/gpt-4o, groq/llama]", "[groq/llama, openai/gpt-4o]"),
        [("chain smart", "in another order: now groq/llama → openai/gpt-4o, was openai/gpt-4o → groq/llama")],
    ),
    "a target less": (
        ("[openai/gpt-4o, groq/llama]", "[groq/llama]"),
        [("chain smart", "no longer openai/gpt-4o: now groq/llama, was openai/gpt-4o → groq/llama")],
    ),
    "a strategy": (
        ("[openai/gpt-4o, groq/llama]", "{targets: [openai/gpt-4o, {target: groq/llama, weight: 3}], strategy: weighted}"),
        [("target groq/llama", "weight: 1 → 3"), ("chain smart", "strategy: order → weighted")],
    ),
    "what follows from failures": (
        ("[openai/gpt-4o, groq/llama]", "{targets: [openai/gpt-4o, groq/llama], failover_on: [429], on_break: continue}"),
        [
            ("chain smart", "failover_on: 429, 5xx, auth, connection, not_found, timeout → 429"),
            ("chain smart", "on_break: error → continue"),
        ],
    ),
    "hedging and quality": (
        ("[openai/gpt-4o, groq/llama]", "{targets: [openai/gpt-4o, groq/llama], hedge: {after: 800ms}, quality: {min: 0.6}}"),
        [("chain smart", "quality: none → min 0.6"), ("chain smart", "hedge: none → after 800 ms, max_extra 0.05")],
    ),
    "another chain": ("  fast: [mistral/small]\n", [
        ("provider mistral", "is new (openai, https://api.mistral.ai/v1)"), ("chain fast", "is new: mistral/small"),
    ]),
    "a wildcard": ('  "gpt-*": [openai/gpt-*]\n', [("chain gpt-*", "is new: openai/gpt-MODEL")]),
    "a provider that is off": (
        ("groq: {api_key", "groq: {enabled: false, api_key"), [("provider groq", "cannot be used: disabled in the file")]
    ),
    "a client": (
        "clients: {web: {key: web-key-fake-00001, chains: [smart], budget: {usd: 5, per: day}}}\n", [("client web", "is new")]
    ),
    "budgets": (
        "budget: {usd: 500, per: month, hard: false}\ndepartments: {research: {budget: {usd: 20, per: day}}}\n",
        [("budget", "none → $500 a month, soft"), ("departments research", "budget: none → $20 a day")],
    ),
    "what everything shares": (
        EVERYTHING,
        [("server", "port: 8080 → 9000"), ("server", "max_body: 32 MiB → 64 MiB"), ("data_dir", "DATA → ELSEWHERE"),
         ("auth", "admin_token: set"), ("retention", "requests: 90 d → 30 d")],
    ),
    "alerts": (
        'alerts: {budget: [0.5, 1.0], error_rate: {warning: 0.1, error: 0.2}, to: [{webhook: "https://hooks.example.com/T0P/SECRET"}]}\n',
        [("alerts", "budget: 0.8, 1 → 0.5, 1"), ("alerts", "error_rate: warning 0.05, error 0.2 → warning 0.1, error 0.2"),
         ("alerts", "to: none → webhook from warning on")],
    ),
    "a cache": ("cache: {ttl: 1h}\n", [("cache", "ttl: 600 s → 3600 s"), ("chain smart", "cache: none → enabled yes, ttl 3600 s")]),
    "what no chain names": (
        ('prices: {"*": {input: 1', 'prices: {other: {input: 7, output: 7}, "*": {input: 1'),
        [("file", "what they say of models that no chain names differs (prices, limits or defaults of direct targets)")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_difference_in_words_both_ways_and_no_secret_among_them(folder: Path, base: Settings, name: str) -> None:
    change, expected = CASES[name]
    new = settings(folder, "new.yaml", BASE + change if isinstance(change, str) else BASE.replace(*change))
    found = [(change.where, change.what) for change in differences(base, new)]
    back = differences(new, base)
    text = repr([*found, *back])
    shown = [(where, what.replace(f"{folder}/data", "DATA").replace(f"{folder}/elsewhere", "ELSEWHERE")) for where, what in found]
    if name == "a cache":  # the rest of its settings is told as well
        shown = [(where, what.partition(", max_entries")[0]) for where, what in shown]
    assert shown == expected
    assert bool(back) == bool(expected)
    for secret in ("sk-fake", "gsk-fake", "mistral-fake", "web-key", "an-admin-token", "hush", "SECRET", "hooks.example"):
        assert secret not in text


def test_what_is_added_and_what_is_gone_is_told_apart(tmp_path: Path) -> None:
    old, new = settings(tmp_path, "old.yaml", BASE), settings(tmp_path, "new.yaml", f"{BASE}  fast: [mistral/small]\n")
    assert Change("chain fast", "is new: mistral/small", "added") in differences(old, new)
    assert Change("chain fast", "is gone (it was mistral/small)", "removed") in differences(new, old)


def test_a_target_that_stands_in_several_chains_is_told_once(tmp_path: Path) -> None:
    old = f"{BASE}  fast: [groq/llama]\n"
    assert told(tmp_path, old, old.replace("20s", "21s")) == [("target groq/llama", "timeouts.first_token: 20 s → 21 s")]
    one = f"{BASE}  fast: {{targets: [groq/llama], timeouts: {{first_token: 5s}}}}\n"
    assert told(tmp_path, old, one) == [("target groq/llama", "timeouts.first_token: 20 s → 5 s (in fast)")]


def test_every_field_of_the_settings_is_told_of_or_has_a_reason_not_to_be() -> None:
    """A new one must not be forgotten here."""
    of_the_loading = ("hash", "path", "warnings", "files", "known_secrets", "direct", "resolve")
    runtime_keys = ("keyring", "refused_by_digest", "needs_key", "keys_problem", "keys_change_ms", "clients_by_digest")
    told_of = (
        "data_dir server admin_token metrics_token auth_none providers chains wildcards clients budget departments agents key_pepper "
        "retention ledger health alerts cache"
    ).split()
    made_of_the_others = ("auto",)
    known = {*of_the_loading, *runtime_keys, *told_of, *made_of_the_others}
    assert set(Settings.__dataclass_fields__) == known
