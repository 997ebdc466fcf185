"""Providers that are spoken to in a format of their own: which header has the key, where in a cloud they stand, who signs."""

import json
import time
from pathlib import Path

import pytest

from proxy.config.faults import ConfigError
from proxy.config.load import load
from proxy.config.settings import Settings
from proxy.core.target import NO_CREDENTIAL, Provider, Quirks, Target
from proxy.engine.heads import make_head
from proxy.server.banner import banner
from proxy.upstream.probe import Finding, probe_all

pytestmark = pytest.mark.unit

KEY = "k-123456789012"


def read(text: str, folder: Path, **environ: str) -> Settings:
    file = folder / "providers.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ=environ)


def warnings(settings: Settings) -> list[str]:
    return [warning.split("providers.yaml:", 1)[1] for warning in settings.warnings]


def faults(text: str, folder: Path, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, folder, **environ)
    return [str(fault).split("providers.yaml:", 1)[1] for fault in caught.value.faults]


def target(settings: Settings, name: str) -> Target:
    chain = settings.resolve(name)
    assert chain is not None
    return chain.targets[0]


# -- what each is asked with


@pytest.mark.parametrize(
    ("name", "base_url", "auth", "models_path"),
    [
        ("anthropic", "https://api.anthropic.com", ("x-api-key", ""), "/v1/models"),
        ("gemini", "https://generativelanguage.googleapis.com", ("x-goog-api-key", ""), "/v1beta/models"),
        ("cohere", "https://api.cohere.com", ("authorization", "Bearer "), "/v1/models"),
        ("ollama", "http://127.0.0.1:11434", ("authorization", "Bearer "), "/api/tags"),
    ],
)
def test_a_native_provider_needs_its_key_alone(
    name: str, base_url: str, auth: tuple[str, str], models_path: str, tmp_path: Path
) -> None:
    settings = read(f"chains: {{a: [{name}/m]}}", tmp_path, **{f"{name.upper()}_API_KEY": KEY})
    provider = settings.providers[name]
    assert (provider.dialect, provider.base_url, provider.model_list_path) == (name, base_url, models_path)
    assert (provider.auth_header, provider.auth_prefix) == auth
    assert (provider.signs, provider.disabled, settings.warnings) == (False, None, ())


@pytest.mark.parametrize(
    ("dialect", "header", "models_path"),
    [
        ("anthropic", ("x-api-key", KEY), "/v1/models"),
        ("gemini", ("x-goog-api-key", KEY), "/v1beta/models"),
        ("azure", ("api-key", KEY), "/openai/v1/models"),
        ("cohere", ("authorization", f"Bearer {KEY}"), "/v1/models"),
        ("ollama", ("authorization", f"Bearer {KEY}"), "/api/tags"),
        ("bedrock", ("authorization", f"Bearer {KEY}"), None),
        ("openai", ("authorization", f"Bearer {KEY}"), "/models"),
    ],
)
def test_a_provider_of_any_name_is_spoken_to_as_its_dialect_asks(
    dialect: str, header: tuple[str, str], models_path: str | None, tmp_path: Path
) -> None:
    text = f"providers: {{mine: {{dialect: {dialect}, base_url: 'https://x.example/api', api_key: '${{MINE}}', headers: {{x-a: b}}}}}}"
    provider = read(text, tmp_path, MINE=KEY).providers["mine"]
    head = dict(make_head(provider, provider.credentials[0], "POST", "/p").headers)
    assert head[header[0].encode()] == header[1].encode()
    assert [name for name in head if KEY.encode() in head[name]] == [header[0].encode()]
    assert head[b"x-a"] == b"b"
    assert (b"anthropic-version" in head) is (dialect == "anthropic")
    assert provider.model_list_path == models_path


def test_what_is_known_of_a_provider_goes_for_its_own_format_only(tmp_path: Path) -> None:
    text = """
providers:
  mistral: {dialect: anthropic, base_url: "https://x.example"}
  anthropic: {dialect: openai, base_url: "https://y.example/v1"}
"""
    settings = read(text, tmp_path, MISTRAL_API_KEY=KEY, ANTHROPIC_API_KEY=KEY)
    mistral, anthropic = settings.providers["mistral"], settings.providers["anthropic"]
    assert (mistral.auth_header, mistral.headers) == ("x-api-key", {"anthropic-version": "2023-06-01"})
    assert (mistral.quirks, mistral.lacks) == (Quirks(), frozenset())
    assert (anthropic.auth_header, anthropic.auth_prefix, anthropic.headers) == ("authorization", "Bearer ", {})
    assert (anthropic.model_list_path, anthropic.lacks, anthropic.price_source) == ("/models", frozenset(), "anthropic")
    claude = target(settings, "anthropic/claude-3-haiku")
    assert (claude.max_output, claude.lacks) == (4096, frozenset())


def test_another_format_needs_another_address(tmp_path: Path) -> None:
    assert faults("providers: {gemini: {dialect: openai}}", tmp_path) == [
        "1:31: dialect: the known address of 'gemini' speaks gemini (write the base_url that speaks openai)"
    ]


# -- addresses


@pytest.mark.parametrize(
    ("variable", "given", "expected"),
    [
        ("OLLAMA_BASE_URL", "http://10.0.0.9:11434", "http://10.0.0.9:11434"),
        ("OLLAMA_BASE_URL", "10.0.0.9:11434/", "http://10.0.0.9:11434"),
        ("OLLAMA_BASE_URL", "http://10.0.0.9:11434/v1/", "http://10.0.0.9:11434"),
        ("OLLAMA_BASE_URL", "http://10.0.0.9/ollama/api", "http://10.0.0.9/ollama"),
        ("ANTHROPIC_BASE_URL", "https://gateway.example/claude/v1", "https://gateway.example/claude"),
        ("ANTHROPIC_BASE_URL", "https://gateway.example/v10", "https://gateway.example/v10"),
        ("GEMINI_BASE_URL", "https://gateway.example/v1beta/openai", "https://gateway.example"),
        ("GEMINI_BASE_URL", "https://gateway.example/v1beta", "https://gateway.example"),
        ("COHERE_BASE_URL", "https://gateway.example/compatibility/v1", "https://gateway.example"),
        ("CO_API_URL", "https://gateway.example/v2", "https://gateway.example"),
        ("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com/openai/v1/", "https://mine.openai.azure.com"),
    ],
)
def test_an_end_that_is_written_by_habit_is_not_sent_twice(variable: str, given: str, expected: str, tmp_path: Path) -> None:
    name = {"CO_API_URL": "cohere", "AZURE_OPENAI_ENDPOINT": "azure"}.get(variable) or variable.partition("_")[0].lower()
    assert read(f"chains: {{a: [{name}/m]}}", tmp_path, **{variable: given}).providers[name].base_url == expected
    written = given if "://" in given else f"http://{given}"
    assert read(f"providers: {{{name}: {{base_url: '{written}'}}}}", tmp_path).providers[name].base_url == expected
    own = f"providers: {{mine: {{dialect: {name}, base_url: '{written}'}}}}"
    assert read(own, tmp_path).providers["mine"].base_url == expected


# -- places


@pytest.mark.parametrize(
    ("stanza", "environ", "region"),
    [
        ("{region: eu-west-1}", {"AWS_REGION": "us-east-1"}, "eu-west-1"),
        ("{}", {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-west-2"}, "us-east-1"),
        ("{}", {"AWS_REGION": " ", "AWS_DEFAULT_REGION": "us-gov-west-1\n"}, "us-gov-west-1"),
        ("{region: '${WHERE}'}", {"WHERE": "ap-southeast-2"}, "ap-southeast-2"),
    ],
)
def test_bedrocks_address_is_made_of_its_region(stanza: str, environ: dict[str, str], region: str, tmp_path: Path) -> None:
    settings = read(f"providers: {{bedrock: {stanza}}}", tmp_path, **environ)
    provider = settings.providers["bedrock"]
    assert (provider.region, provider.base_url) == (region, f"https://bedrock-runtime.{region}.amazonaws.com")
    assert (provider.disabled, settings.warnings) == (None, ())


@pytest.mark.parametrize(
    ("stanza", "environ", "place", "base_url"),
    [
        ("{project: p1}", {}, ("p1", "global"), "https://aiplatform.googleapis.com"),
        ("{project: p1, location: global}", {}, ("p1", "global"), "https://aiplatform.googleapis.com"),
        ("{project: p1, location: eu}", {}, ("p1", "eu"), "https://aiplatform.eu.rep.googleapis.com"),
        (
            "{project: p1, location: europe-west1}",
            {"GOOGLE_CLOUD_PROJECT": "p2", "GOOGLE_CLOUD_LOCATION": "us-central1"},
            ("p1", "europe-west1"),
            "https://europe-west1-aiplatform.googleapis.com",
        ),
        (
            "{}",
            {"GOOGLE_CLOUD_PROJECT": "example.com:p2", "GOOGLE_CLOUD_LOCATION": "us-central1"},
            ("example.com:p2", "us-central1"),
            "https://us-central1-aiplatform.googleapis.com",
        ),
        (
            "{}",
            {"GCLOUD_PROJECT": "123456789012", "GOOGLE_CLOUD_REGION": "us"},
            ("123456789012", "us"),
            "https://aiplatform.us.rep.googleapis.com",
        ),
    ],
)
def test_vertexs_address_is_made_of_its_location(
    stanza: str, environ: dict[str, str], place: tuple[str, str], base_url: str, tmp_path: Path
) -> None:
    settings = read(f"providers: {{vertex: {stanza}}}", tmp_path, **environ)
    provider = settings.providers["vertex"]
    assert (provider.project, provider.location, provider.base_url) == (*place, base_url)
    assert (provider.disabled, settings.warnings) == (None, ())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bedrock", "no region: write region or set AWS_REGION or AWS_DEFAULT_REGION"),
        ("vertex", "no project: write project or set GOOGLE_CLOUD_PROJECT or GCLOUD_PROJECT"),
    ],
)
def test_a_cloud_without_its_place_is_disabled_and_says_why(name: str, reason: str, tmp_path: Path) -> None:
    settings = read(f"providers: {{{name}: {{}}}}", tmp_path)
    assert settings.providers[name].disabled == reason
    assert warnings(settings) == [f"1:13: provider '{name}' is disabled: {reason}"]
    settings = read(f"chains: {{a: [{name}/m, demo/chat]}}", tmp_path)
    assert settings.providers[name].disabled == reason
    assert warnings(settings) == [], "a chain that merely names it goes on with its other targets"


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ("providers: {bedrock: {base_url: 'https://vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com'}}", {}),
        ("chains: {a: [bedrock/m]}", {"AWS_ENDPOINT_URL_BEDROCK_RUNTIME": "http://127.0.0.1:4566"}),
    ],
)
def test_an_address_says_where_it_stands(text: str, environ: dict[str, str], tmp_path: Path) -> None:
    """For the signature `upstream/auth.py` finds the region in it, or says then that it is missing."""
    provider = read(text, tmp_path, **environ).providers["bedrock"]
    assert (provider.disabled, provider.region, provider.signs) == (None, None, True)


@pytest.mark.parametrize("name", ["project", "location"])
def test_a_place_that_means_nothing_to_the_dialect_is_warned_of(name: str, tmp_path: Path) -> None:
    settings = read(f"providers: {{demo: {{{name}: us-east-1}}}}", tmp_path)
    assert warnings(settings) == [f"1:20: '{name}' means nothing to dialect openai (remove it)"]
    assert settings.providers["demo"].enabled


def test_a_region_is_a_tag_where_the_dialect_has_none(tmp_path: Path) -> None:
    settings = read("providers: {groq: {api_key: k-123456789012, region: eu}}", tmp_path, GROQ="x")
    assert settings.providers["groq"].region == "eu"
    assert [warning for warning in warnings(settings) if "region" in warning] == []


@pytest.mark.parametrize(
    ("text", "environ", "told"),
    [
        (
            "providers: {bedrock: {region: US East}}",
            {},
            "1:31: region: 'US East' cannot be one (write such as us-east-1)",
        ),
        (
            "providers: {vertex: {project: p1, location: evil.example/x}}",
            {},
            "1:45: location: 'evil.example/x' cannot be one (write such as europe-west1)",
        ),
        (
            "providers: {vertex: {project: ../p}}",
            {},
            "1:31: project: '../p' cannot be one (write such as my-project)",
        ),
        (
            "chains: {a: [bedrock/m]}",
            {"AWS_REGION": "x.evil.example/"},
            "1:14: AWS_REGION: 'x.evil.example/' cannot be one (write such as us-east-1)",
        ),
    ],
)
def test_what_cannot_name_a_place_is_a_fault(text: str, environ: dict[str, str], told: str, tmp_path: Path) -> None:
    """It becomes a part of the address, and must not change whom the key goes to."""
    assert faults(text, tmp_path, **environ) == [told]


def test_a_service_can_stand_in_a_second_place_under_another_name(tmp_path: Path) -> None:
    text = """
providers:
  bedrock-eu: {dialect: bedrock, region: eu-west-1}
  google-eu: {dialect: vertex, project: p1, location: europe-west1}
chains: {a: [bedrock-eu/eu.amazon.nova-micro-v1:0, google-eu/gemini-2.5-flash]}
"""
    settings = read(text, tmp_path, AWS_BEARER_TOKEN_BEDROCK=KEY)
    bedrock, vertex = settings.providers["bedrock-eu"], settings.providers["google-eu"]
    assert (bedrock.base_url, bedrock.price_source, bedrock.signs) == (
        "https://bedrock-runtime.eu-west-1.amazonaws.com",
        "aws",
        False,
    )
    assert (vertex.base_url, vertex.price_source, vertex.signs) == (
        "https://europe-west1-aiplatform.googleapis.com",
        "google",
        True,
    )
    nova, gemini = settings.chains["a"].targets
    assert (nova.context, gemini.max_output) == (128_000, 65_536)
    assert nova.lacks >= {"vision"}
    (fault,) = faults("providers: {anthropic-eu: {dialect: anthropic}}", tmp_path)
    assert "'anthropic-eu' is not in the catalogue and does not say its base_url" in fault, "Anthropic is in one place"


# -- who signs, and what is secret


def test_bedrock_without_a_key_signs_and_with_one_does_not(tmp_path: Path) -> None:
    text = "providers: {bedrock: {region: us-east-1}}"
    signing = read(text, tmp_path).providers["bedrock"]
    assert (signing.credentials, signing.signs, signing.enabled) == ((NO_CREDENTIAL,), True, True)
    settings = read(text, tmp_path, AWS_BEARER_TOKEN_BEDROCK=KEY)
    bearing = settings.providers["bedrock"]
    assert (bearing.signs, bearing.auth_header, bearing.auth_prefix) == (False, "authorization", "Bearer ")
    assert settings.secrets() == [KEY]
    unset = read("providers: {bedrock: {region: us-east-1, api_key: '${MINE}'}}", tmp_path).providers["bedrock"]
    assert (unset.signs, unset.disabled) == (False, "no key: set MINE"), "who wrote a key does not want to sign without it"


async def probed(*providers: Provider) -> list[tuple[str, str | None, Finding]]:
    found = await probe_all(providers, monotonic=time.monotonic)
    return [(one.provider, one.key, one.finding) for one in found]


@pytest.mark.anyio
async def test_the_path_of_a_service_account_is_shown_to_nobody_and_sent_to_nobody(tmp_path: Path) -> None:
    path = "/home/ada/secret-place/service-account.json"
    text = """
providers:
  vertex: {project: p1}
  mine: {dialect: vertex, base_url: "http://127.0.0.1:1", project: p1, api_key: "${GOOGLE_APPLICATION_CREDENTIALS}"}
"""
    settings = read(text, tmp_path, GOOGLE_APPLICATION_CREDENTIALS=path)
    vertex, mine = settings.providers["vertex"], settings.providers["mine"]
    assert [credential.secret.reveal() for credential in vertex.credentials if credential.secret] == [path]
    assert (vertex.signs, mine.signs) == (True, True)
    assert await probed(vertex, mine) == [("vertex", "…json", Finding.UNKNOWN), ("mine", "…json", Finding.UNKNOWN)]
    shown = banner(settings, version="1", host="127.0.0.1", port=8080, started_ms=1)
    assert "…json" in shown
    assert not any(part in shown for part in (path, "secret-place", "service-account"))
    assert path in settings.secrets(), "so that it is redacted where an error tells it"


def test_a_service_accounts_key_may_be_written_as_the_file_has_it(tmp_path: Path) -> None:
    account = {"type": "service_account", "private_key": "-----BEGIN\nabc\n-----END\n", "client_email": "ä@p1.example"}
    (tmp_path / "account.json").write_text(json.dumps(account, indent=2, ensure_ascii=False))
    (tmp_path / "account.json").chmod(0o600)
    settings = read("providers: {vertex: {project: p1, api_key: '${file:account.json}'}}", tmp_path)
    (credential,) = settings.providers["vertex"].credentials
    assert credential.secret is not None
    text = credential.secret.reveal()
    assert json.loads(text) == account
    assert text.isascii()
    assert text.isprintable()
    assert set(settings.secrets()) == {text, account["private_key"], "-----BEGIN\\nabc\\n-----END\\n"}
    assert settings.warnings == ()
    (tmp_path / "account.json").write_text('{\n"type": ')
    assert faults("providers: {vertex: {project: p1, api_key: '${file:account.json}'}}", tmp_path) == [
        "1:44: the key begins as a service account's file does and is not all of it (copy it anew)"
    ]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
