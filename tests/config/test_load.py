"""From a file to `Settings`: levels, keys, what a model name means, what is warned of."""

import hashlib
import re
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.config.check import calls_itself, exposure_fault, is_metadata_host
from proxy.config.faults import ConfigError, ConfigFault
from proxy.config.load import Overrides, load
from proxy.config.settings import MAX_MEMOISED_MODELS, Settings
from proxy.core.limits import Budget
from proxy.core.target import (
    NO_CREDENTIAL,
    CacheSettings,
    CircuitSettings,
    HedgeSettings,
    Price,
    QualitySettings,
    Timeouts,
    Weights,
)

unit = pytest.mark.unit
HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def read(text: str, folder: Path, **environ: str) -> Settings:
    file = folder / "providers.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ=environ)


def warnings(settings: Settings) -> list[str]:
    return [warning.split("providers.yaml:", 1)[1] for warning in settings.warnings]


def names(settings: Settings, model: str) -> list[str] | None:
    chain = settings.resolve(model)
    return [target.name for target in chain.targets] if chain else None


# -- the two examples of the documentation


@unit
def test_an_every_day_file_loads_whole() -> None:
    keys = {name: f"k-{name}" for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "VLLM_KEY_A", "VLLM_KEY_B", "SEARCH_AGENT_KEY")}
    settings = load(HERE / "every_day.yaml", environ={**keys, "OPENROUTER_API_KEY": "k-o"})
    assert settings.warnings == ()
    assert settings.server.max_body_bytes == 32 << 20
    assert settings.data_dir == HERE / "data"
    assert (settings.admin_token, settings.metrics_token) == (None, None)
    assert list(settings.chains) == ["smart", "gpt-4o"]
    target = settings.chains["smart"].targets[2]
    assert (target.name, target.label) == ("my-vllm/meta-llama/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.3-70B-Instruct")
    assert len(target.provider.credentials) == 2
    assert target.price == Price(input=Decimal("0.2"), output=Decimal("0.6"), cached_input=Decimal("0.05"))
    assert target.timeouts == Timeouts(3.0, 60.0, 30.0, 600.0)
    assert target.circuit == CircuitSettings()
    client = settings.clients["search-agent"]
    assert client.key_digests == {hashlib.sha256(b"k-SEARCH_AGENT_KEY").digest()}
    assert (client.department, client.budget) == ("research", Budget(50 * 10**9, "month", hard=True))
    assert settings.clients_by_digest[hashlib.sha256(b"k-SEARCH_AGENT_KEY").digest()] is client
    assert names(settings, "claude-opus") == ["anthropic/claude-opus", "openrouter/anthropic/claude-opus"]
    assert names(settings, "o9") == ["openai/o9"]


@unit
def test_the_whole_vocabulary_is_taken_without_a_word(tmp_path: Path) -> None:
    text = (HERE / "whole_vocabulary.yaml").read_text()
    environ = {name: f"https://k.test/{name}" for name in re.findall(r"\$\{([A-Z_]+)\}", text)}
    environ |= {"GROQ_API_KEY": "k-groq", "OPENAI_API_KEY": "k-openai"}
    settings = read(text, tmp_path, **environ)
    assert warnings(settings) == []
    smart = settings.chains["smart"]
    assert (smart.strategy, smart.on_break, smart.weights) == ("order", "continue", Weights())
    assert smart.cache == CacheSettings(ttl_s=3600.0, max_entries=10000)
    assert smart.quality == QualitySettings(0.6, "openai/gpt-5-mini", Budget(5 * 10**9, "month", hard=True))
    assert smart.hedge == HedgeSettings(after=0.95, after_s=None, max_extra=0.05)
    assert [(one.weight, one.quality, one.expected_first_token_s, one.answer) for one in smart.targets] == [
        (1.0, 78.0, 0.3, None),
        (2.0, None, None, None),
        (1.0, None, None, "Please try later."),
    ]


@unit
def test_the_shipped_file_needs_no_key_and_shows_failover_first() -> None:
    settings = load(ROOT / "providers.yaml", environ={})
    assert names(settings, "demo") == ["demo/down", "demo/flaky", "demo/chat"]
    assert settings.listed_models()[0] == ("demo", "tollbridge")
    assert [target.provider.name for target in settings.chains["default"].targets] == [
        "together",
        "anthropic",
        "openai",
        "gemini",
        "openrouter",
    ]
    assert all((target.provider.disabled or "").startswith("no key: set ") for target in settings.chains["default"].targets)
    assert exposure_fault(settings) is None


@unit
@pytest.mark.parametrize(
    "key", ["TOGETHER_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GEMINI_API_KEY", "OPENROUTER_API_KEY"]
)
def test_any_one_key_makes_the_default_chain_work(key: str) -> None:
    settings = load(ROOT / "providers.yaml", environ={key: "k-123"})
    assert [target.provider.enabled for target in settings.chains["default"].targets].count(True) == 1
    assert "default" in dict(settings.listed_models())
    assert settings.warnings == ()


@unit
def test_auto_means_every_target_that_the_file_names(tmp_path: Path) -> None:
    text = """
providers:
  groq: {api_key: k-1, models: {small: {context: 8192}, "big-*": {}}}
  openai: {api_key: k-2}
chains:
  a: [openai/gpt-5, {static: later}, demo/chat]
  "w-*": [openai/*]
  b: [groq/medium, openai/gpt-5]
clients: {c: {key: k-3, chains: [auto]}}
cache: {ttl: 1h}
"""
    settings = read(text, tmp_path)
    auto = settings.resolve("auto")
    assert auto is not None
    assert (auto.name, auto.strategy, auto.direct) == ("auto", "score", False)
    assert [target.name for target in auto.targets] == ["openai/gpt-5", "groq/medium", "groq/small"]
    assert auto.cache == CacheSettings(ttl_s=3600.0)
    assert auto is settings.resolve("auto")
    assert names(read(f"{text.replace('b: ', 'auto: ')}", tmp_path), "auto") == ["groq/medium", "openai/gpt-5"], (
        "a chain goes first"
    )
    assert read("chains: {a: [demo/chat], '*': [demo/*]}", tmp_path).resolve("auto") is not None, "the wildcard"
    assert read("chains: {a: [demo/chat]}", tmp_path).resolve("auto") is None


@unit
@pytest.mark.parametrize(
    ("file", "chain", "expected"),
    [
        (None, None, None),
        (None, "{}", CacheSettings()),
        (None, "{ttl: 1h}", CacheSettings(ttl_s=3600.0)),
        ("{store: sqlite, max_bytes: 1MiB}", None, CacheSettings(store="sqlite", max_bytes=1 << 20)),
        ("{store: sqlite, ttl: 1m}", "{ttl: 1h, every: true}", CacheSettings(store="sqlite", ttl_s=3600.0, every=True)),
        ("{}", "{enabled: false}", CacheSettings(enabled=False)),
        ("{enabled: false}", None, CacheSettings(enabled=False)),
        ("{enabled: false}", "{enabled: true}", CacheSettings()),
    ],
)
def test_a_chains_cache_is_laid_over_the_files(
    file: str | None, chain: str | None, expected: CacheSettings | None, tmp_path: Path
) -> None:
    text = f"chains: {{a: {{targets: [demo/chat]{f', cache: {chain}' if chain else ''}}}}}\n" + (f"cache: {file}" if file else "")
    assert read(text, tmp_path).chains["a"].cache == expected


@unit
def test_without_a_file_there_is_the_demo() -> None:
    settings = load(None, environ={}, env_file=None)
    assert names(settings, "demo/chat") == ["demo/chat"]
    assert settings.path is None


# -- what a model name means

NAMES = """
chains:
  gpt-4o: [openai/gpt-4o]
  openai/shadowed: [demo/chat]
  "claude-*": [anthropic/claude-*]
  "claude-opus-*": [anthropic/opus-*-latest, demo/chat]
  "*-mini": [openai/*-mini]
  "*": [openai/*]
  off: [groq/x]
"""


@unit
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-4o", ["openai/gpt-4o"]),
        ("openai/gpt-4o", ["openai/gpt-4o"]),
        ("openai/any/thing", ["openai/any/thing"]),
        ("openai/shadowed", ["demo/chat"]),
        ("claude-x", ["anthropic/claude-x"]),
        ("claude-opus-4", ["anthropic/opus-4-latest", "demo/chat"]),
        ("claude-mini", ["anthropic/claude-mini"]),
        ("gpt-mini", ["openai/gpt-mini"]),
        ("groq/x", ["openai/groq/x"]),  # not enabled, so the wildcard
        ("mistral/x", ["openai/mistral/x"]),  # not in the file
        ("demo/chat", ["demo/chat"]),
        ("openai/", ["openai/openai/"]),
        ("x\ny", ["openai/x\ny"]),
        ("x" * 512, [f"openai/{'x' * 512}"]),
        ("x" * 513, None),
    ],
)
def test_exact_chain_then_direct_target_then_longest_wildcard(model: str, expected: list[str] | None, tmp_path: Path) -> None:
    settings = read(NAMES, tmp_path, OPENAI_API_KEY="k-1", ANTHROPIC_API_KEY="k-2")
    assert names(settings, model) == expected


@unit
def test_nothing_fits_without_a_wildcard(tmp_path: Path) -> None:
    settings = read("chains: {a: [openai/x]}", tmp_path, OPENAI_API_KEY="k-1")
    assert names(settings, "b") is None
    assert names(settings, "demo") is None
    assert names(settings, "groq/x") is None


@unit
def test_a_name_keeps_its_chain_and_the_memory_is_bounded(tmp_path: Path) -> None:
    settings = read(NAMES, tmp_path, OPENAI_API_KEY="k-1")
    chain = settings.resolve("some-model")
    assert chain is settings.resolve("some-model")
    assert chain is not None
    assert (chain.name, chain.direct) == ("*", False)
    direct = settings.resolve("openai/x")
    assert direct is not None
    assert (direct.name, direct.direct) == ("direct", True)
    for number in range(MAX_MEMOISED_MODELS + 1):
        settings.resolve(f"m{number}")
    assert settings.resolve("some-model") is not chain


@unit
def test_only_names_of_the_configuration_become_labels(tmp_path: Path) -> None:
    settings = read(NAMES + "providers: {openai: {models: {listed: {context: 5}}}}", tmp_path, OPENAI_API_KEY="k-1")
    labels = {
        model: chain.targets[0].label
        for model in ("gpt-4o", "openai/gpt-4o", "listed", "made-up")
        if (chain := settings.resolve(model))
    }
    assert labels == {"gpt-4o": "gpt-4o", "openai/gpt-4o": "gpt-4o", "listed": "listed", "made-up": "other"}


@unit
def test_models_are_listed_in_file_order_without_wildcards_and_what_is_disabled(tmp_path: Path) -> None:
    text = """
providers: {openai: {models: {gone: {enabled: false}}}}
chains: {b: [groq/x, openai/m], a: [openai/m, demo/chat], none: [groq/x], dead: [openai/gone], "*": [openai/*]}
"""
    assert read(text, tmp_path, OPENAI_API_KEY="k-1").listed_models() == [
        ("b", "tollbridge"),
        ("a", "tollbridge"),
        ("openai/m", "openai"),
        ("demo/chat", "demo"),
    ]


# -- levels


@unit
def test_the_level_nearest_to_the_target_wins(tmp_path: Path) -> None:
    text = """
defaults: {timeouts: {connect: 1s, total: 100s}, retries: 2, circuit: {failures: 7}}
providers:
  openai:
    timeouts: {between_tokens: 2s, first_token: 2s}
    models: {m: {timeouts: {first_token: 3s}, retries: 0}}
chains:
  long:
    targets: [{target: openai/m, timeouts: {total: 5m}}, openai/other]
    timeouts: {connect: 250ms}
    circuit: {failures: 9, open: 1m}
  short: [openai/m]
"""
    settings = read(text, tmp_path, OPENAI_API_KEY="k-1")
    first, second = settings.chains["long"].targets
    assert first.timeouts == Timeouts(connect_s=0.25, first_token_s=3.0, between_tokens_s=2.0, total_s=300.0)
    assert (first.retries, first.circuit.failures, first.circuit.open_s) == (0, 9, 60.0)
    assert second.timeouts == Timeouts(connect_s=0.25, first_token_s=2.0, between_tokens_s=2.0, total_s=100.0)
    assert second.retries == 2
    (short,) = settings.chains["short"].targets
    assert (short.timeouts.connect_s, short.circuit.failures) == (1.0, 7)


@unit
def test_a_model_is_described_by_file_then_catalogue(tmp_path: Path) -> None:
    text = """
providers:
  openai:
    limits: {in_flight: 8}
    prices: {"*": {input: 1, output: 2}, "gpt-4o*": {input: 3, output: 4}}
    models:
      gpt-4o: {context: 1000, capabilities: [tools], limits: {in_flight: 2}}
      gpt-4o-mini: {price: {input: 5, output: 6}, enabled: false}
chains: {a: [openai/gpt-4o, openai/gpt-4o-mini, openai/gpt-5, openai/x]}
"""
    four, mini, five, other = read(text, tmp_path, OPENAI_API_KEY="k-1").chains["a"].targets
    assert (four.context, four.max_output, four.limits.in_flight) == (1000, 16384, 2)
    assert four.capabilities == frozenset(("tools", "streamed_tools"))
    assert [target.price.input for target in (four, mini, five, other) if target.price] == [3, 5, 1, 1]
    assert mini.disabled == "disabled in the file"
    assert (five.reasoning, five.provider.limits.in_flight, five.capabilities) == (True, 8, None)
    assert five.quirks.rename == {"max_tokens": "max_completion_tokens"}
    assert (other.reasoning, other.quirks.rename) == (False, {})


@unit
def test_chain_options_are_kept(tmp_path: Path) -> None:
    chain = read("chains: {a: {targets: [demo/chat], failover_on: [429, policy], strict: true}}", tmp_path).chains["a"]
    assert set(chain.failover_on) == {"429", "policy"}
    assert (chain.strict, chain.on_break) == (True, "error")


# -- keys and addresses


@unit
@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({"XAI_API_KEY": "k-xai", "GROK_API_KEY": "k-grok"}, "k-xai"),
        ({"GROK_API_KEY": " k-grok\n"}, "k-grok"),
        ({"XAI_API_KEY": "", "GROK_API_KEY": "k-grok"}, "k-grok"),
    ],
)
def test_the_first_known_variable_that_is_set_gives_the_key(environ: dict[str, str], key: str, tmp_path: Path) -> None:
    provider = read("chains: {a: [xai/grok-4]}", tmp_path, **environ).providers["xai"]
    assert [credential.secret.reveal() for credential in provider.credentials if credential.secret] == [key]


@unit
@pytest.mark.parametrize(
    ("text", "reason", "warned"),
    [
        ("chains: {a: [xai/grok-4, demo/chat]}", "no key: set XAI_API_KEY or GROK_API_KEY", []),
        (
            "providers: {groq: {}}",
            "no key: set GROQ_API_KEY",
            ["1:13: provider 'groq' is disabled: no key: set GROQ_API_KEY"],
        ),
        (
            "providers: {groq: {api_key: '${MINE}'}}",
            "no key: set MINE",
            ["1:13: provider 'groq' is disabled: no key: set MINE"],
        ),
        (
            "providers: {groq: {api_key: '${EMPTY}'}}",
            "no key: ${EMPTY} is empty",
            ["1:13: provider 'groq' is disabled: no key: ${EMPTY} is empty"],
        ),
        ("providers: {groq: {enabled: false, api_key: '${MINE}'}}", "disabled in the file", []),
    ],
)
def test_a_provider_without_its_key_is_disabled_and_says_why(text: str, reason: str, warned: list[str], tmp_path: Path) -> None:
    settings = read(text, tmp_path, EMPTY="")
    (provider,) = (provider for provider in settings.providers.values() if provider.name != "demo")
    assert (provider.disabled, provider.enabled, provider.credentials) == (reason, False, ())
    assert warnings(settings) == warned


@unit
def test_several_keys_are_kept_in_order_and_an_unset_one_is_warned_of(tmp_path: Path) -> None:
    settings = read("providers: {groq: {api_keys: ['${A}', '${B}', '${C}']}}", tmp_path, A="k-a", C="k-c")
    assert [c.secret.reveal() for c in settings.providers["groq"].credentials if c.secret] == ["k-a", "k-c"]
    assert warnings(settings) == ["1:30: provider 'groq' goes on with 2 of 3 keys: B is not set"]


@unit
def test_apprise_without_its_extra_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, mail = "alerts: {to: [{apprise: '${MAIL_URL}'}]}", "mailto://u:p@example.com"
    assert read(text, tmp_path, MAIL_URL=mail).warnings == ()
    monkeypatch.setattr("proxy.config.telling.find_spec", lambda _name: None)
    assert warnings(read(text, tmp_path, MAIL_URL=mail)) == [
        "1:25: apprise is not installed, so nothing can be sent there (install it: pip install 'tollbridge[alerts]')"
    ]


@unit
def test_a_key_written_out_works_and_is_warned_of(tmp_path: Path) -> None:
    settings = read("providers: {groq: {api_key: k-open}}", tmp_path)
    assert settings.providers["groq"].enabled
    assert warnings(settings) == ["1:29: a key is written out in the file (better: keep it in a variable, ${NAME})"]


@unit
@pytest.mark.parametrize(("day", "warned"), [("1970-01-01", True), ("2999-01-01", False)])
def test_a_client_whose_time_is_over_is_warned_of(tmp_path: Path, day: str, warned: bool) -> None:
    settings = read(f"clients: {{app: {{key: '${{APP_KEY}}', expires: {day}}}}}", tmp_path, APP_KEY="key-of-the-app-0001")
    expected = "1:45: the keys of client 'app' have expired and open nothing (write a later date, or remove the client)"
    assert warnings(settings) == ([expected] if warned else [])


@unit
def test_a_secret_in_a_file_that_everybody_may_read_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k-file")
    text = "providers: {groq: {api_key: '${file:key}', region: '${file:key}'}}\nclients: {me: {key: '${file:key}x'}}"
    (tmp_path / "key").chmod(0o644)
    told = "every user of this machine may read or change a secret in a file (chmod 600 key)"
    assert warnings(read(text, tmp_path)) == [f"1:29: {told}", f"2:21: {told}"]
    (tmp_path / "key").chmod(0o600)
    assert warnings(read(text, tmp_path)) == []


@unit
def test_local_servers_need_no_key(tmp_path: Path) -> None:
    settings = read("chains: {a: [ollama/llama3.2]}", tmp_path)
    assert settings.providers["ollama"].credentials == (NO_CREDENTIAL,)
    assert settings.providers["ollama"].enabled


@unit
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://10.0.0.9:8000", "http://10.0.0.9:8000/v1"),
        ("http://10.0.0.9:8000/", "http://10.0.0.9:8000/v1"),
        ("10.0.0.9:8000", "http://10.0.0.9:8000/v1"),
        ("http://10.0.0.9/vllm/v1", "http://10.0.0.9/vllm/v1"),
    ],
)
def test_an_address_from_the_environment_keeps_the_known_path(given: str, expected: str, tmp_path: Path) -> None:
    assert read("chains: {a: [vllm/x]}", tmp_path, VLLM_BASE_URL=given).providers["vllm"].base_url == expected


@unit
def test_azure_takes_its_endpoint_from_the_environment(tmp_path: Path) -> None:
    environ = {"AZURE_OPENAI_API_KEY": "k-azure"}
    lacking = read("providers: {azure: {}}", tmp_path, **environ).providers["azure"]
    assert lacking.disabled == "no address: set AZURE_OPENAI_ENDPOINT or write base_url"
    environ["AZURE_OPENAI_ENDPOINT"] = "https://mine.openai.azure.com/"
    azure = read("providers: {azure: {api_version: 2024-10-21}}", tmp_path, **environ).providers["azure"]
    assert (azure.base_url, azure.dialect, azure.auth_header, azure.auth_prefix, azure.api_version) == (
        "https://mine.openai.azure.com",
        "azure",
        "api-key",
        "",
        "2024-10-21",
    )


@unit
def test_variables_of_the_env_file_count_but_never_over_the_real_ones(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GROQ_API_KEY=k-file\nXAI_API_KEY=k-file\n")
    settings = read("chains: {a: [groq/x, xai/x]}", tmp_path, GROQ_API_KEY="k-real")
    assert sorted(settings.secrets()) == ["k-file", "k-real"]
    (tmp_path / "other").write_text("GROQ_API_KEY=k-other\n")
    settings = load(tmp_path / "providers.yaml", environ={}, env_file=tmp_path / "other")
    assert settings.secrets() == ["k-other"]
    assert settings.files == (tmp_path / "providers.yaml", tmp_path / "other")


@unit
@pytest.mark.parametrize(
    "host",
    """169.254.169.254 2852039166 0xa9fea9fe 0251.0376.0251.0376 169.254.43518 ::ffff:169.254.169.254 ::ffff:a9fe:a9fe
    64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1 fe80::1 fd00:ec2::254 100.100.100.200 168.63.129.16 169.254.170.2
    metadata.google.internal METADATA.google.internal. instance-data""".split(),
)
def test_metadata_addresses_are_recognised_however_they_are_written(host: str) -> None:
    assert is_metadata_host(host)


@unit
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.5", "localhost", "api.openai.com", "fd00::1", "::1", "8.8.8.8", "vllm", "", "a..b"]
)
def test_other_addresses_are_not(host: str) -> None:
    assert not is_metadata_host(host)


@unit
def test_allow_private_lifts_the_refusal(tmp_path: Path) -> None:
    text = "providers: {mine: {dialect: openai, base_url: 'http://169.254.169.254/v1', allow_private: true}}"
    assert read(text, tmp_path).providers["mine"].base_url == "http://169.254.169.254/v1"


@unit
@pytest.mark.parametrize("model", ["mine/..", "mine/.", "mine/a/../b", "mine/./a", "mine/tunedModels/..", "any-..", "any-a/../b"])
def test_a_models_name_that_climbs_is_not_found(model: str, tmp_path: Path) -> None:
    """Some formats have it in the path of their URL."""
    text = """providers: {mine: {dialect: gemini, base_url: 'http://127.0.0.1:1', api_key: k-1}}
chains: {"any-*": [mine/*]}"""
    settings = read(text, tmp_path)
    assert settings.resolve(model) is None
    assert settings.resolve("mine/a.b/..c") is not None
    assert settings.resolve("any-...") is not None


# -- tokens, clients, secrets


@unit
def test_an_operators_token_whose_variable_is_unset_is_unset(tmp_path: Path) -> None:
    text = "auth: {admin_token: '${A}', metrics_token: '${M:-}'}"
    assert read(text, tmp_path).admin_token is None
    settings = read(text, tmp_path, A="t-admin", M="")
    assert settings.admin_token is not None
    assert (settings.admin_token.reveal(), settings.metrics_token) == ("t-admin", None)


@unit
def test_an_operators_token_whose_variable_is_empty_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("1:21: ${A} is empty (set it, or remove the line)")):
        read("auth: {admin_token: '${A}'}", tmp_path, A="")


@unit
def test_secrets_are_known_for_redaction_and_shown_nowhere(tmp_path: Path) -> None:
    text = """
auth: {admin_token: "${HUSH}-admin"}
providers:
  groq: {api_key: "${HUSH}-groq", headers: {x-team: "${HUSH}-header", x-open: open}, proxy: "http://a:${HUSH}-proxy@b:1"}
clients: {a: {keys: ["${HUSH}-one", "${HUSH}-two"]}}
"""
    settings = read(text, tmp_path, HUSH="hush")
    expected = {"hush-groq", "hush-header", "http://a:hush-proxy@b:1", "hush-proxy", "hush-admin", "hush-one", "hush-two"}
    assert set(settings.secrets()) == expected
    assert "hush" not in repr((settings.admin_token, settings.clients, settings.warnings, settings.hash))
    assert "hush" not in repr({**vars_of(settings.providers["groq"]), "headers": None})


def vars_of(value: object) -> dict[str, object]:
    return {name: getattr(value, name) for name in value.__slots__}  # type: ignore[attr-defined]


@unit
@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        ("", "clients: with their keys and auth.admin_token are not set"),
        ("auth: {admin_token: t-1}", "clients: with their keys is not set"),
        ("clients: {a: {key: k-1}}", "auth.admin_token is not set"),
        ("auth: {admin_token: t-1}\nclients: {a: {key: k-1}}", None),
        ("auth: none", None),
    ],
)
def test_off_loopback_it_needs_clients_and_an_admin_token(text: str, lacking: str | None, tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.3.2.1"):
        assert exposure_fault(read(f"server: {{host: '{host}'}}\n{text}", tmp_path)) is None
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.com"):
        fault = exposure_fault(read(f"server: {{host: '{host}'}}\n{text}", tmp_path))
        assert fault is None if lacking is None else lacking in (fault or "")


@unit
@pytest.mark.parametrize(
    ("url", "host", "itself"),
    [
        ("http://127.0.0.1:8080/v1", "127.0.0.1", True),
        ("http://localhost:8080/v1", "127.0.0.1", True),
        ("http://[::1]:8080", "localhost", True),
        ("http://127.0.0.1:8080/v1", "0.0.0.0", True),
        ("http://[::1]:8080/v1", "::", True),
        ("http://10.0.0.1:8080/v1", "10.0.0.1", True),
        ("http://Proxy.Example:8080/v1", "proxy.example", True),
        ("http://127.0.0.1:8081/v1", "127.0.0.1", False),
        ("http://10.0.0.5:8080/v1", "127.0.0.1", False),
        ("http://127.0.0.1:8080/v1", "10.0.0.1", False),
        ("https://api.openai.com/v1", "0.0.0.0", False),
        ("http://127.0.0.1:99999/v1", "127.0.0.1", False),
        ("", "127.0.0.1", False),
    ],
)
def test_the_proxys_own_address_is_recognised(url: str, host: str, itself: bool) -> None:
    assert calls_itself(url, host, 8080) is itself


@unit
def test_a_provider_that_is_the_proxy_itself_is_disabled_and_told(tmp_path: Path) -> None:
    text = "providers: {me: {dialect: openai, base_url: 'http://localhost:8080/v1'}}\nchains: {smart: [me/x, demo/chat]}"
    reason = "would call itself: the proxy listens on 127.0.0.1:8080"
    settings = read(text, tmp_path)
    assert settings.providers["me"].disabled == reason
    assert settings.chains["smart"].targets[0].provider.disabled == reason
    assert f"provider 'me' is disabled: {reason} (change base_url or server.port)" in settings.warnings[0]
    path = tmp_path / "providers.yaml"
    assert load(path, environ={}, overrides={"port": 9000}).providers["me"].enabled
    assert load(path, environ={"TOLLBRIDGE_PORT": "9000"}).warnings == ()


@unit
def test_without_a_file_there_is_the_demo_and_a_word_about_it() -> None:
    settings = load(None, environ={})
    assert [name for name, provider in settings.providers.items() if provider.enabled] == ["demo"]
    assert len(settings.warnings) == 1
    assert "there is no such file, so only the demo provider answers" in settings.warnings[0]
    assert settings.resolve("demo/chat") is not None


# -- where settings come from, and the hash


@unit
def test_flags_win_over_variables_over_the_file(tmp_path: Path) -> None:
    text = "server: {host: 127.0.0.2, port: 1, log_level: error}\ndata_dir: there"
    settings = read(text, tmp_path)
    assert (settings.server.host, settings.server.port, settings.server.log_level) == ("127.0.0.2", 1, "error")
    assert settings.data_dir == tmp_path / "there"
    environ = {"TOLLBRIDGE_PORT": "2", "TOLLBRIDGE_LOG_LEVEL": "debug", "TOLLBRIDGE_DATA_DIR": "/var/two", "TOLLBRIDGE_HOST": ""}
    settings = read(text, tmp_path, **environ)
    assert (settings.server.host, settings.server.port, settings.server.log_level) == ("127.0.0.2", 2, "debug")
    assert settings.data_dir == Path("/var/two")
    flags: Overrides = {"port": 0, "log_level": None, "data_dir": Path("three")}
    settings = load(tmp_path / "providers.yaml", environ=environ, overrides=flags)
    assert (settings.server.port, settings.server.log_level, settings.data_dir) == (0, "debug", Path("three"))


@unit
@pytest.mark.parametrize("environ", [{"TOLLBRIDGE_PORT": "x"}, {"TOLLBRIDGE_PORT": "65536"}, {"TOLLBRIDGE_LOG_LEVEL": "loud"}])
def test_bad_variables_are_faults(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read("", tmp_path, **environ)


@unit
def test_the_hash_follows_what_is_in_force_and_not_how_it_is_written(tmp_path: Path) -> None:
    text = "providers: {groq: {api_key: '${A}'}}\nchains:\n  a: [groq/x]\n"
    base = read(text, tmp_path, A="k-1").hash
    assert re.fullmatch("[0-9a-f]{12}", base)
    assert read(f"# a comment\n{text}", tmp_path, A="k-1").hash == base
    assert read(text, tmp_path, A="k-2").hash != base
    assert read(text.replace("groq/x", "groq/y"), tmp_path, A="k-1").hash != base
    assert read(f"{text}  'b*': [groq/x]", tmp_path, A="k-1").hash != base
    assert read(f"{text}server: {{port: 9}}", tmp_path, A="k-1").hash != base


@unit
def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    text = """
chains:
  a: &base {targets: [demo/chat], retries: 3}
  b: {<<: *base, retries: 4}
"""
    chains = read(text, tmp_path).chains
    assert (chains["a"].targets[0].retries, chains["b"].targets[0].retries) == (3, 4)
    assert chains["b"].targets[0].name == "demo/chat"


@unit
def test_empty_sections_are_nothing(tmp_path: Path) -> None:
    settings = read("server:\nauth:\nproviders:\n  openai:\nchains:\nclients:\n", tmp_path)
    assert list(settings.providers) == ["openai", "demo"]


# -- whatever is written


GOOD = (HERE / "every_day.yaml").read_text()
PIECES = st.sampled_from(
    [
        *"{}[]:,-*&!|>'\"#%@` \n\t0a$",
        "${",
        "${A}",
        "${file:x}",
        "<<: ",
        "null",
        "3s",
        "- ",
        "*x",
        "&x ",
        "\x00",
        "\ud7ff",
        "---\n",
    ]
)


@pytest.mark.property
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12), PIECES), min_size=1, max_size=4))
def test_a_mutilated_file_loads_or_raises_config_error(edits: list[tuple[int, int, str]], tmp_path: Path) -> None:
    text = GOOD
    for at, cut, piece in edits:
        text = text[:at] + piece + text[at + cut :]
    loads_or_tells(text, tmp_path)


PLACES = """server auth defaults providers chains clients budget alerts data_dir providers.groq chains.a clients.a providers.groq.models
chains.a.targets providers.groq.prices.m defaults.timeouts.connect server.drain.delay""".split()


def loads_or_tells(text: str, folder: Path) -> None:
    told: list[ConfigFault] = []
    try:
        read(text, folder)
    except ConfigError as error:
        told = error.faults
    assert all(fault.line >= 1 and fault.col >= 1 and fault.message and "\n" not in str(fault) for fault in told)


@pytest.mark.property
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(PLACES),
    value=st.recursive(
        st.sampled_from(
            ["null", "true", "1", "-1", "1e400", ".nan", "9" * 5000, "3s", "x", "''", "demo/chat", "2026-01-01", "0x1f", "1:30"]
        ),
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
            | st.dictionaries(st.sampled_from(["a", "target", "usd", "key", "enabled"]), inner, max_size=3).map(
                lambda items: "{" + ", ".join(f"{name}: {item}" for name, item in items.items()) + "}"
            )
        ),
        max_leaves=6,
    ),
)
def test_any_value_in_any_place_loads_or_raises_config_error(path: str, value: str, tmp_path: Path) -> None:
    text = value
    for name in reversed(path.split(".")):
        text = f"{{{name}: {text}}}"
    loads_or_tells(text, tmp_path)


@pytest.mark.performance
def test_reading_the_configuration_takes_a_small_part_of_the_start() -> None:
    """In a process of its own, the catalogue included and the imports not: below 80 ms."""
    program = """
import time
from pathlib import Path
from proxy.config.load import load
began = time.perf_counter()
load(Path("providers.yaml"), environ={})
print(time.perf_counter() - began)
"""
    taken = [
        float(subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True).stdout) for _ in range(5)
    ]
    assert sorted(taken)[2] < 0.160
