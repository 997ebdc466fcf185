"""The catalogue is data, so it is held to its vocabulary here: names, keys, addresses. Its document must tell the same."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from genai_prices.data import providers

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
CATALOGUE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "proxy" / "catalogue.yaml").read_text())
DOCUMENT = (ROOT / "docs" / "providers.md").read_text()

NAMES = (
    "openai azure anthropic gemini vertex bedrock cohere ollama groq together openrouter huggingface deepseek xai moonshot"
    " dashscope mistral ai21 fireworks cerebras perplexity nvidia sambanova zai github vllm llamacpp lmstudio demo"
).split()
KEYS = frozenset(
    "dialect base_url base_url_env key_env key auth_header auth_prefix headers models_path price_source region_urls quirks lacks"
    " models docs verified unverified unsupported retired transport".split()
)
QUIRKS = frozenset(("rename", "drop", "refuse", "developer_role", "usage_in_stream", "reasoning_excluded"))
FEATURES = frozenset(("tools", "vision", "audio", "json_schema", "json_object", "logprobs", "n", "seed", "parallel_tools"))
MODEL_KEYS = frozenset(("context", "max_output", "reasoning", "capabilities", "quirks"))
PRICED = frozenset(provider.id for provider in providers)
LOCAL = frozenset(("ollama", "vllm", "llamacpp", "lmstudio"))
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]+")
FIELD = re.compile(r"[a-z][a-z_]+|n")

USABLE = [name for name, stanza in CATALOGUE.items() if "unsupported" not in stanza]


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
    assert set(stanza.get("lacks", ())) <= FEATURES
    for model in stanza.get("models", {}).values():
        assert model.keys() <= MODEL_KEYS
        assert all(type(model[key]) is int and model[key] > 0 for key in ("context", "max_output") if key in model)
    for key in ("verified", "unverified"):
        assert all(isinstance(line, str) and line for line in stanza.get(key, ()))


@pytest.mark.parametrize("name", USABLE)
def test_a_usable_provider_says_how_it_is_reached(name: str) -> None:
    stanza = CATALOGUE[name]
    assert stanza["dialect"] in ("openai", "azure")
    assert stanza["key"] in ("required", "optional", "none")
    assert (stanza["key"] == "none") == (stanza["key_env"] == [])
    variables = stanza["key_env"] + stanza["base_url_env"]
    assert all(VARIABLE.fullmatch(variable) for variable in variables)
    assert len(set(variables)) == len(variables)
    assert stanza["models_path"] is None or re.fullmatch(r"(/[a-z0-9]+)+", stanza["models_path"])
    for header, value in stanza.get("headers", {}).items():
        assert header == header.lower()
        assert isinstance(value, str)
    assert isinstance(stanza.get("auth_prefix", ""), str)
    assert stanza.get("auth_header", "authorization").islower()


@pytest.mark.parametrize("name", USABLE)
def test_addresses_are_https_except_on_this_machine(name: str) -> None:
    base_url = CATALOGUE[name]["base_url"]
    if base_url is None:
        assert CATALOGUE[name]["base_url_env"], "without an address there must be a variable that gives one"
        return
    parts = urlsplit(base_url)
    assert parts.hostname
    assert not base_url.endswith("/")
    if name in LOCAL:
        assert (parts.scheme, parts.hostname, parts.path) == ("http", "127.0.0.1", "/v1")
    else:
        assert parts.scheme == "https" or (name == "demo" and parts.hostname.endswith(".invalid"))
    for other in CATALOGUE[name].get("region_urls", {}).values():
        assert re.fullmatch(r"https://.*[^/]", other)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "demo"])
def test_every_provider_names_its_documentation(name: str) -> None:
    assert urlsplit(CATALOGUE[name]["docs"]).scheme == "https"
    assert "unsupported" in CATALOGUE[name] or (CATALOGUE[name]["verified"] and CATALOGUE[name]["unverified"])


@pytest.mark.parametrize("name", NAMES)
def test_quirks_are_about_top_level_fields_and_agree_with_each_other(name: str) -> None:
    for quirks in quirks_of(CATALOGUE[name]):
        assert quirks.keys() <= QUIRKS
        renamed, dropped, refused = quirks.get("rename", {}), quirks.get("drop", []), quirks.get("refuse", [])
        for field in (*renamed, *renamed.values(), *dropped, *refused):
            assert isinstance(field, str)
            assert FIELD.fullmatch(field)
        assert len({*renamed, *dropped, *refused}) == len(renamed) + len(dropped) + len(refused), "one field, one fate"
        assert quirks.get("usage_in_stream", "stream_options") in ("stream_options", "always", "never")
        assert type(quirks.get("reasoning_excluded", False)) is bool
        assert quirks.get("developer_role", "system") in ("system", "user")


def test_the_names_that_people_use_come_in_the_contracts_order() -> None:
    assert CATALOGUE["xai"]["key_env"][:2] == ["XAI_API_KEY", "GROK_API_KEY"]
    assert CATALOGUE["anthropic"]["key_env"] == ["ANTHROPIC_API_KEY", "CLAUDE_API_KEY"]
    assert CATALOGUE["gemini"]["key_env"] == ["GEMINI_API_KEY", "GOOGLE_API_KEY"]
    assert CATALOGUE["huggingface"]["key_env"][:2] == ["HF_TOKEN", "HUGGINGFACE_API_KEY"]
    assert "OLLAMA_BASE_URL" in CATALOGUE["ollama"]["base_url_env"]
    assert "AZURE_OPENAI_ENDPOINT" in CATALOGUE["azure"]["base_url_env"]


def test_no_variable_stands_for_two_providers() -> None:
    variables = [variable for name in USABLE for variable in CATALOGUE[name]["key_env"] + CATALOGUE[name]["base_url_env"]]
    assert len(set(variables)) == len(variables)


def test_what_cannot_be_used_yet_says_why() -> None:
    unsupported = {name: stanza["unsupported"] for name, stanza in CATALOGUE.items() if "unsupported" in stanza}
    assert sorted(unsupported) == ["bedrock", "vertex"]
    assert all(len(reason) > 20 for reason in unsupported.values())


def test_the_document_tells_of_every_provider() -> None:
    assert "## Not verified" in DOCUMENT
    for name, stanza in CATALOGUE.items():
        assert f"`{name}" in DOCUMENT
        if name != "demo" and "unsupported" not in stanza:
            row = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| `{name}`"))
            facts = [stanza["base_url"], stanza["models_path"], stanza["docs"], *stanza["key_env"], *stanza.get("lacks", ())]
            assert [fact for fact in facts if fact and fact not in row] == []
        for line in (*stanza.get("unverified", ()), stanza.get("retired"), stanza.get("unsupported")):
            assert line is None or line in DOCUMENT
