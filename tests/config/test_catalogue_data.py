"""The catalogue is data, so it is held to its vocabulary here: names, keys, addresses."""

import re
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

import pytest
import yaml
from genai_prices.data import providers

from proxy.config.catalogue import load_catalogue
from proxy.config.patterns import best_match
from proxy.config.providers import DIALECT_PLACES
from proxy.config.schema import Dialect
from proxy.core.target import FEATURES

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
CATALOGUE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "proxy" / "catalogue.yaml").read_text())

NAMES = (
    "openai azure anthropic gemini vertex bedrock cohere ollama groq together openrouter huggingface deepseek xai moonshot"
    " dashscope mistral ai21 fireworks cerebras perplexity nvidia sambanova zai github vllm llamacpp lmstudio demo"
).split()
KEYS = frozenset(
    "dialect base_url place_urls base_url_env base_url_trim key_env key auth_header auth_prefix headers models_path check_path"
    " price_source region_urls quirks lacks models docs verified unverified retired transport".split()
)
QUIRKS = frozenset(
    "rename drop refuse developer_role usage_in_stream reasoning_excluded drop_in_messages call_id_length prefix".split()
)
MODEL_KEYS = frozenset(("context", "max_output", "reasoning", "lacks", "capabilities", "quirks"))
DIALECTS = frozenset(get_args(Dialect))
OPENAI = frozenset(("openai", "azure"))  # whose bodies are passed through
PRICED = frozenset(provider.id for provider in providers)
LOCAL = frozenset(("ollama", "vllm", "llamacpp", "lmstudio"))
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]+")
FIELD = re.compile(r"[a-z][a-z_]+|n")


def quirks_of(stanza: dict[str, Any]) -> list[dict[str, Any]]:
    found = [stanza.get("quirks", {}), *(model.get("quirks", {}) for model in stanza.get("models", {}).values())]
    return [quirks for quirks in found if quirks]


def test_it_has_every_provider_of_the_contract_and_no_other() -> None:
    assert sorted(CATALOGUE) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_stanza_uses_known_keys_only(name: str) -> None:
    stanza = CATALOGUE[name]
    assert stanza.keys() <= KEYS
    assert stanza["price_source"] is None or stanza["price_source"] in PRICED
    assert set(stanza.get("lacks", ())) <= set(FEATURES)
    for model in stanza.get("models", {}).values():
        assert model.keys() <= MODEL_KEYS
        assert set(model.get("lacks", ())) <= set(FEATURES)
        assert set(model.get("capabilities", ())) <= set(FEATURES)
        assert all(type(model[key]) is int and model[key] > 0 for key in ("context", "max_output") if key in model)
    for key in ("verified", "unverified"):
        assert all(isinstance(line, str) and line for line in stanza.get(key, ()))


@pytest.mark.parametrize("name", NAMES)
def test_a_provider_says_how_it_is_reached(name: str) -> None:
    stanza = CATALOGUE[name]
    assert stanza["dialect"] in DIALECTS
    assert stanza["key"] in ("required", "optional", "none")
    assert (stanza["key"] == "none") == (stanza["key_env"] == [])
    variables = stanza["key_env"] + stanza["base_url_env"]
    assert all(VARIABLE.fullmatch(variable) for variable in variables)
    assert len(set(variables)) == len(variables)
    assert stanza["models_path"] is None or re.fullmatch(r"(/[a-z0-9]+)+", stanza["models_path"])
    assert re.fullmatch(r"(https://[a-z.]+)?(/[a-z0-9-]+)+", stanza.get("check_path", "/none"))
    ends = stanza.get("base_url_trim", [])
    assert all(re.fullmatch(r"(/[a-z0-9]+)+", end) for end in ends)
    assert not any(str(stanza["base_url"]).endswith(end) for end in ends)
    for header, value in stanza.get("headers", {}).items():
        assert header == header.lower()
        assert isinstance(value, str)
    assert isinstance(stanza.get("auth_prefix", ""), str)
    assert stanza.get("auth_header", "authorization").islower()


@pytest.mark.parametrize("name", NAMES)
def test_addresses_are_https_except_on_this_machine(name: str) -> None:
    base_url = CATALOGUE[name]["base_url"]
    if base_url is None:
        assert CATALOGUE[name]["base_url_env"], "without an address there must be a variable that gives one"
        return
    assert not base_url.endswith("/")
    assert set(re.findall(r"\{(\w+)\}", base_url)) <= set(DIALECT_PLACES.get(CATALOGUE[name]["dialect"], ()))
    parts = urlsplit(re.sub(r"\{\w+\}", "x", base_url))
    assert parts.hostname
    if name in LOCAL:
        path = "" if CATALOGUE[name]["dialect"] == "ollama" else "/v1"
        assert (parts.scheme, parts.hostname, parts.path) == ("http", "127.0.0.1", path)
    else:
        assert parts.scheme == "https" or (name == "demo" and parts.hostname.endswith(".invalid"))
    for other in CATALOGUE[name].get("place_urls", {}).values():
        assert re.fullmatch(r"https://[a-z.]+", other)
    for other in CATALOGUE[name].get("region_urls", {}).values():
        assert re.fullmatch(r"https://.*[^/]", other)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo"])
def test_every_provider_names_its_documentation(name: str) -> None:
    assert urlsplit(CATALOGUE[name]["docs"]).scheme == "https"
    assert CATALOGUE[name]["verified"]
    assert CATALOGUE[name]["unverified"]


@pytest.mark.parametrize("name", NAMES)
def test_quirks_are_about_top_level_fields_and_agree_with_each_other(name: str) -> None:
    for quirks in quirks_of(CATALOGUE[name]):
        assert quirks.keys() <= QUIRKS
        renamed, dropped, refused = quirks.get("rename", {}), quirks.get("drop", []), quirks.get("refuse", [])
        for field in (*renamed, *renamed.values(), *dropped, *refused, *quirks.get("drop_in_messages", ())):
            assert isinstance(field, str)
            assert FIELD.fullmatch(field)
        assert len({*renamed, *dropped, *refused}) == len(renamed) + len(dropped) + len(refused), "one field, one fate"
        assert quirks.get("usage_in_stream", "stream_options") in ("stream_options", "always", "never")
        assert type(quirks.get("reasoning_excluded", False)) is bool
        assert quirks.get("developer_role", "system") in ("system", "user")
        assert quirks.get("call_id_length", 9) in range(8, 65), "shorter ones would not differ"
        prefix = quirks.get("prefix") or {}
        assert prefix.keys() <= {"message", "body", "path", "echoes"}
        assert all(FIELD.fullmatch(field) for field in (*prefix.get("message", ()), *prefix.get("body", ())))
        assert prefix.get("path", "/").startswith("/")


@pytest.mark.parametrize("name", NAMES)
def test_quirks_beyond_fields_are_of_formats_that_heed_them(name: str) -> None:
    """What is not about single fields is about OpenAI's format."""
    if CATALOGUE[name]["dialect"] not in OPENAI:
        assert all(quirks.keys() <= {"rename", "drop", "refuse"} for quirks in quirks_of(CATALOGUE[name]))


def test_each_native_dialect_has_a_namesake_that_says_how_it_is_spoken_to() -> None:
    """A provider of any other name gets its header for the key, the headers and the model list from there."""
    assert {name: CATALOGUE[name]["dialect"] for name in DIALECTS} == {name: name for name in DIALECTS}


def test_the_names_that_people_use_come_in_the_contracts_order() -> None:
    assert CATALOGUE["xai"]["key_env"][:2] == ["XAI_API_KEY", "GROK_API_KEY"]
    assert CATALOGUE["anthropic"]["key_env"] == ["ANTHROPIC_API_KEY", "CLAUDE_API_KEY"]
    assert CATALOGUE["gemini"]["key_env"] == ["GEMINI_API_KEY", "GOOGLE_API_KEY"]
    assert CATALOGUE["huggingface"]["key_env"][:2] == ["HF_TOKEN", "HUGGINGFACE_API_KEY"]
    assert "OLLAMA_BASE_URL" in CATALOGUE["ollama"]["base_url_env"]
    assert "AZURE_OPENAI_ENDPOINT" in CATALOGUE["azure"]["base_url_env"]


def test_no_variable_stands_for_two_providers() -> None:
    variables = [variable for name in NAMES for variable in CATALOGUE[name]["key_env"] + CATALOGUE[name]["base_url_env"]]
    assert len(set(variables)) == len(variables)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # (context, longest answer, whether it thinks unasked, some of what it lacks)
        ("anthropic/claude-sonnet-4-5", (200_000, 64_000, False, {"audio"})),
        ("anthropic/claude-3-haiku-20240307", (200_000, 4_096, False, {"json_schema"})),
        ("anthropic/claude-opus-4-20250514", (200_000, 32_000, False, {"json_schema"})),
        ("anthropic/claude-opus-4-1-20250805", (200_000, 32_000, False, {"json_schema"})),
        ("anthropic/claude-opus-4-6", (1_000_000, 128_000, False, {"n"})),
        ("anthropic/claude-haiku-5-5", (1_000_000, 128_000, True, {"n"})),
        ("anthropic/claude-next-9", (200_000, None, False, {"n"})),
        ("vertex/claude-sonnet-4-5@20250929", (200_000, 64_000, False, {"video"})),
        ("vertex/gemini-2.5-pro", (1_048_576, 65_536, True, {"audio_output"})),
        ("vertex/publishers/google/models/gemini-2.0-flash", (1_048_576, 8_192, False, set())),
        ("gemini/gemini-2.5-flash-preview-tts", (8_192, 16_384, False, {"tools", "vision"})),
        ("gemini/gemini-3.1-flash-image-preview", (65_536, 32_768, True, {"tools"})),
        ("gemini/gemini-flash-latest", (1_048_576, 65_536, True, {"image_output"})),
        ("bedrock/eu.anthropic.claude-sonnet-4-5-20250929-v1:0", (200_000, 64_000, False, {"audio"})),
        ("bedrock/global.anthropic.claude-opus-5", (1_000_000, 128_000, True, {"json_schema"})),
        ("bedrock/us.amazon.nova-micro-v1:0", (128_000, None, False, {"vision", "documents"})),
        ("bedrock/us.meta.llama3-3-70b-instruct-v1:0", (128_000, None, False, {"streamed_tools", "vision"})),
        ("bedrock/meta.llama3-70b-instruct-v1:0", (8_192, None, False, {"tools"})),
        ("bedrock/us.deepseek.r1-v1:0", (128_000, None, True, {"tools"})),
        ("cohere/command-a-03-2025", (256_000, 8_000, False, {"vision"})),
        ("cohere/command-a-reasoning-08-2025", (256_000, 32_000, True, {"vision"})),
        ("cohere/command-a-vision-07-2025", (128_000, 8_000, False, {"tools"})),
        ("cohere/command-r7b-12-2024", (128_000, 4_000, False, {"vision"})),
        ("ollama/qwen3:8b", (None, None, True, set())),
        ("ollama/qwen3:4b-instruct-2507", (None, None, False, set())),
    ],
)
def test_models_are_known_by_their_family(target: str, expected: tuple[Any, Any, bool, set[str]]) -> None:
    name, _, model = target.partition("/")
    facts = best_match(load_catalogue()[name].models, model)
    assert facts is not None
    assert (facts.context, facts.max_output, facts.reasoning) == expected[:3]
    assert facts.lacks >= expected[3]
