"""The documentation says what the code does, and everything that a user can meet is in it.

What has a home of its own is not repeated here: keys of the configuration (`config/test_schema.py`), metrics and events
(`telemetry/test_metrics.py`), verdicts (`routing/test_verdict.py`), faults
(`e2e/test_faults.py`), what is used of uvicorn (`server/test_uvicorn.py`).
"""

import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
import yaml

from proxy.accounting.journal import MAX_PAYLOAD_BYTES
from proxy.app import ROUTES
from proxy.cli import app
from proxy.config.catalogue import load_catalogue
from proxy.config.load import load
from proxy.config.providers import PLACES
from proxy.config.settings import ServerSettings
from proxy.core import deadlines
from proxy.core.errors import CallerError, ChainSpent, ProxyError
from proxy.core.version import VERSION
from proxy.dialects import native_embeddings, openai_embeddings, openai_request
from proxy.engine import attempt
from proxy.routing.verdict import MAX_MESSAGE_CHARS, RULES
from proxy.server import door, guard, overload, protocol
from proxy.server.banner import banner
from proxy.server.endpoints import FALLBACK
from proxy.storage import drainer
from proxy.storage.usage import GROUPS
from proxy.telemetry.families import FAMILIES
from proxy.telemetry.logs import MAX_LINE_BYTES
from proxy.telemetry.metrics import MAX_SERIES
from proxy.upstream import response
from proxy.wire.sse import MAX_EVENT_BYTES
from tests import providers_doc
from tests.test_architecture import EVERYTHING, MAY_IMPORT

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "proxy"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(path for part in ("docs", "deploy", "tests") for path in (ROOT / part).rglob("*.md")),
]
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
LISTED = {path: path.read_text(encoding="utf-8") for path in PAGES}
README = LISTED[ROOT / "README.md"]

MADE_AT_RUN_TIME = {"drainer.lock", "keys.lock", "supervisor.lock"}

every_page = pytest.mark.parametrize("page", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])


def doc(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def rows(text: str) -> list[list[str]]:
    """The cells of every line of every table, without their heads."""
    lines = text.splitlines()
    rule = re.compile(r"\|[-|]+\|")
    body = [
        line
        for n, line in enumerate(lines)
        if line.startswith("|") and not rule.fullmatch(line) and not rule.fullmatch("".join(lines[n + 1 : n + 2]))
    ]
    return [[cell.strip() for cell in line[1:].removesuffix("|").split("|")] for line in body]


# -- pages


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(LISTED[page])) if not re.match(r"https?:|mailto:", link)]
    missing = []
    for link in links:
        target, _, anchor = link.partition("#")
        path = (page.parent / target) if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            missing.append(link)
    assert missing == []


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in re.findall(r"\]\(([^)#\s]+)", prose(page.read_text(encoding="utf-8"))):
            target = (page.parent / link).resolve()
            if target.is_dir():
                todo += target.glob("*.md")
            elif target.suffix == ".md" and target.exists():
                todo.append(target)
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in reached and "tests" not in page.parts] == []


@every_page
def test_every_file_that_is_named_is_there(page: Path) -> None:
    named = re.findall(
        r"`([\w./*-]*[\w*-]\.(?:py|md|sql|xz|service|lock|toml))`|`((?:proxy|tests|deploy|docs)/[\w./*-]*)`", LISTED[page]
    )
    bases = (ROOT, PACKAGE, page.parent, PACKAGE / "upstream", ROOT / "tests")
    missing = []
    for name in sorted({first or second for first, second in named} - MADE_AT_RUN_TIME):
        found = any(True for base in bases for _ in base.glob(name.rstrip("/")))
        if not found and not ("/" not in name and any(PACKAGE.rglob(name))):
            missing.append(name)
    assert missing == []


@every_page
def test_every_yaml_and_json_example_can_be_read(page: Path) -> None:
    for text in blocks(LISTED[page], "yaml"):
        assert yaml.safe_load(text) is not None
    for text in blocks(LISTED[page], "json"):
        assert json.loads(text)


@every_page
def test_every_metric_header_and_command_that_is_named_exists(page: Path) -> None:
    text = LISTED[page]
    metrics = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\btollbridge_[a-z_]+[a-z]\b", text)}
    assert metrics <= set(FAMILIES)
    headers = set(re.findall(r"\bx-tollbridge-[a-z-]+[a-z]\b", text))
    assert {name for name in headers if name not in SOURCES} == set()
    called = set(re.findall(r"(?:`|\$ |bin/|^)tollbridge ([a-z]+)\b", text, flags=re.MULTILINE))
    assert called <= set(commands())
    made = set(re.findall(r"`make ([a-z]+)\b", text))
    assert made <= makefile_targets()


def test_decisions_are_numbered_and_say_where_they_stand() -> None:
    pages = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(page.name[:4])}. ")
        assert "\nStatus: " in text
        assert "\n## Decision\n" in text


def test_the_changelog_knows_this_version() -> None:
    assert f"## [{VERSION}]" in LISTED[ROOT / "CHANGELOG.md"]


# -- README


def shipped_banner() -> str:
    settings = load(ROOT / "providers.yaml", environ={}, env_file=Path("/dev/null"))
    return banner(settings, version=VERSION, host="127.0.0.1", port=8080, started_ms=370)


def test_the_banner_in_the_readme_is_the_one_that_is_shown() -> None:
    """A line that ends in an ellipsis is shortened, and so is the list."""
    (start,) = [text for text in blocks(README, "console") if "make run" in text]
    shown = start[start.index("Tollbridge ") :].splitlines()
    real = shipped_banner().splitlines()
    # the folder depends on where it is started
    shown[0], real[0] = (line.partition("  (")[0] for line in (shown[0], real[0]))
    position = 0
    for line in shown:
        if line.strip() == "…":
            continue
        matching = [
            n for n in range(position, len(real)) if (real[n].startswith(line[:-1]) if line.endswith("…") else real[n] == line)
        ]
        assert matching, f"the banner has no line {line!r}"
        position = matching[0] + 1


def test_the_curl_line_in_the_readme_is_the_banners() -> None:
    (line,) = [line for line in shipped_banner().splitlines() if line.startswith("  curl ")]
    assert line in README.splitlines()


def test_the_readmes_configurations_are_good_ones(tmp_path: Path) -> None:
    for text in blocks(README, "yaml"):
        path = tmp_path / "providers.yaml"
        path.write_text(text, encoding="utf-8")
        environ = {name: f"https://value-of.example/{name}" for name in re.findall(r"\$\{(\w+)", text)}
        keys = {f"{name}_API_KEY": "k" * 12 for name in ("OPENAI", "ANTHROPIC", "OPENROUTER", "GROQ")}
        assert load(path, environ={**environ, **keys}).warnings == ()
        assert len([line for line in text.splitlines() if line]) <= 10


def test_the_failover_in_the_readme_is_that_of_the_shipped_chain() -> None:
    targets = [target.name for target in load(ROOT / "providers.yaml", environ={}).chains["demo"].targets]
    (shown,) = [text for text in blocks(README, "console") if '"kept":true' in text]
    trace = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert [entry["target"] for entry in trace if "kept" in entry] == targets
    assert [entry["target"] for entry in trace if "attempt" in entry] == targets[:2]
    assert {tuple(entry) for entry in trace} == {("target", "kept"), ("attempt", "target", "error", "ms", "then")}


def test_the_readme_lists_what_can_be_made() -> None:
    listed = README.rpartition("`make help`")[2]
    assert set(re.findall(r"`([a-z]+)`", listed)) == makefile_targets() - {"help"}


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


# -- the command line and its variables


@cache
def commands() -> dict[str, set[str]]:
    """The options of each; of one with commands of its own, theirs as well."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return {
        name: {
            option
            for each in (command, *getattr(command, "commands", {}).values())
            for parameter in each.params
            for option in parameter.opts
        }
        for name, command in group.commands.items()
    }


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_and_flag_is_documented(name: str) -> None:
    text = doc("cli.md")
    assert f"| `tollbridge {name}` |" in text
    flags = {option for option in commands()[name] if option.startswith("--")}
    assert {flag for flag in flags - {"--help"} if not re.search(rf"`{flag}\b", text)} == set()


def test_every_flag_of_the_page_is_there() -> None:
    known = {option for options in commands().values() for option in options}
    assert set(re.findall(r"`(--[a-z-]+)", doc("cli.md"))) - {"--help"} <= known


def test_every_variable_that_is_read_is_documented() -> None:
    ours = set(re.findall(r"""["'](TOLLBRIDGE_[A-Z_]+)["']""", SOURCES))
    assert "TOLLBRIDGE_CONFIG" in ours
    assert {name for name in ours if f"`{name}`" not in doc("configuration.md")} == set()
    read = {name for stanza in load_catalogue().values() for name in (*stanza.key_env, *stanza.base_url_env)}
    read |= {name for place in PLACES.values() for name in place.variables}
    assert {name for name in read if f"`{name}`" not in doc("providers.md")} == set()


def test_the_service_starts_a_command_that_there_is() -> None:
    unit = (ROOT / "deploy/tollbridge.service").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ExecStart=(.+)$", unit, flags=re.MULTILINE)
    program, name, *arguments = line.split()
    assert program.endswith("/.venv/bin/tollbridge")
    options = commands()[name]
    assert {argument for argument in arguments if argument.startswith("-")} <= options
    (stop_s,) = map(int, re.findall(r"^TimeoutStopSec=(\d+)$", unit, flags=re.MULTILINE))
    defaults = ServerSettings()
    assert stop_s > defaults.drain_delay_s + defaults.drain_timeout_s


# -- HTTP


def test_every_route_is_documented_and_no_other() -> None:
    text = doc("http.md").partition("\n## ")[0]
    shown = {(method, path) for method, path in re.findall(r"`(GET|POST|DELETE) (/[^`?]*)`", text)}
    declared = {(line.method, line.path.replace(":path}", "}")) for line in ROUTES if line is not FALLBACK}
    # those under /v1 have a twin without it
    assert shown == {(method, path) for method, path in declared if (method, f"/v1{path}") not in declared}


def test_how_many_inputs_go_at_once_is_documented() -> None:
    shown = {row[0]: row[2] for row in rows(doc("http.md").partition("## Embeddings")[2].partition("\n## ")[0])}
    assert {name: shown[name] for name in ("`gemini`", "`vertex`", "`cohere`", "`bedrock`, Cohere", "`ollama`")} == {
        "`gemini`": str(native_embeddings.MAX_OF_GEMINI),
        "`vertex`": str(native_embeddings.MAX_OF_VERTEX),
        "`cohere`": str(native_embeddings.MAX_OF_COHERE),
        "`bedrock`, Cohere": str(native_embeddings.MAX_OF_COHERE),
        "`ollama`": f"{native_embeddings.MAX_OF_OLLAMA:,}",
    }
    assert shown["`openai`, `azure`"] == f"{openai_embeddings.MAX_INPUTS:,}"


def test_every_header_of_ours_is_documented() -> None:
    assert set(re.findall(r"\bx-tollbridge-[a-z-]+[a-z]\b", SOURCES)) == set(
        re.findall(r"`(x-tollbridge-[a-z-]+)`", doc("http.md"))
    )


def test_every_group_of_the_usage_is_documented() -> None:
    assert f"`{', '.join(GROUPS)}`" in doc("api.md")
    assert f"`{', '.join(GROUPS)}`" in doc("cli.md")


# -- errors


def documented_errors() -> set[tuple[str, int, str]]:
    return {(code.strip("`"), int(status), type_.strip("`")) for code, status, type_, _, _ in rows(doc("errors.md"))}


def errors(base: type[ProxyError] = ProxyError) -> Iterator[type[ProxyError]]:
    for error in base.__subclasses__():
        yield error
        yield from errors(error)


def test_every_error_is_documented_and_no_other() -> None:
    raised = {(error.code, error.status, error.type) for error in errors() if error not in (CallerError, ChainSpent)}
    told = {(rule.code, rule.status, rule.type) for rule in RULES.values()}
    assert documented_errors() == raised | told


# -- security.md: limits


def size(n: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n % factor == 0:
            return f"{n // factor} {unit}"
    return f"{n} B"


def test_the_limits_are_those_of_the_code() -> None:
    keeps_up = "[cannot keep up](http.md#under-more-than-it-can-do)"
    assert door.SHARE == 0.8
    rate = f"from {protocol.BODY_GRACE_S:.0f} s on no slower than {size(protocol.BODY_BYTES_PER_S)}/s on average"
    expected = {
        "request body (`server.max_body`)": size(ServerSettings().max_body_bytes),
        "URL": size(protocol.MAX_URL_BYTES),
        "headers": str(protocol.MAX_HEADERS),
        "headers, together": size(protocol.MAX_HEADER_BYTES),
        "time for the head": f"{protocol.HEAD_S:.0f} s",
        "time for the body": f"{protocol.BODY_S:.0f} s, and {rate}",
        "idle connection": f"{protocol.KEEP_ALIVE_S:.0f} s",
        "requests sent ahead on one connection": str(protocol.MAX_PIPELINED),
        "requests running at a time (`server.max_in_flight`)": f"{overload.MAX_IN_FLIGHT}, fewer while the proxy {keeps_up}",
        "connections": f"four fifths of the file descriptors, and {door.RESERVE} are kept back",
        "connections, and requests at a time, of one address (`server.per_ip`)": "no limit unless it is set",
        "nesting of a body": f"{openai_request.MAX_DEPTH} levels",
        "messages": str(openai_request.MAX_MESSAGES),
        "tools": str(openai_request.MAX_TOOLS),
        "`n`": str(openai_request.MAX_CHOICES),
        "inputs to be embedded": str(openai_embeddings.MAX_INPUTS),
        "model name": f"{openai_request.MAX_MODEL_BYTES} B",
        "tag (department, agent, task)": f"{openai_request.MAX_TAG_CHARS} characters",
        "a caller that reads nothing of its answer": f"{attempt.WRITE_STALL_S:.0f} s",
        "of its answer, in the kernel and unsent": size(door.UNSENT_BYTES),
        "wrong admin tokens a minute, from one address": str(guard.ADMIN_ATTEMPTS_PER_MINUTE),
        "head of a provider's answer": size(response.MAX_HEAD_BYTES),
        "whole answer of a provider": size(attempt.MAX_ANSWER_BYTES),
        "the same, with embeddings": size(attempt.MAX_EMBEDDINGS_BYTES),
        "event of a stream": size(MAX_EVENT_BYTES),
        "stream before its first content": size(attempt.MAX_HELD_BYTES),
        "metric series": str(MAX_SERIES),
    }
    table = rows(doc("security.md").partition("## Limits")[2].partition("\n## ")[0])
    assert {what: value for what, value, _ in table} == expected


def test_figures_in_the_prose_are_those_of_the_code() -> None:
    security = doc("security.md")
    assert f"at most {size(MAX_LINE_BYTES)}" in security
    assert f"at most {MAX_MESSAGE_CHARS} characters" in security
    assert f"more than {openai_request.MAX_DEPTH} levels" in doc("errors.md")
    assert f"within {deadlines.SPREAD_S:g} s more" in security
    ledger = doc("ledger.md")
    assert f"at most {size(MAX_PAYLOAD_BYTES)}" in ledger
    assert f"{drainer.BATCH_RECORDS:,} records" in ledger or f"{drainer.BATCH_RECORDS} records" in ledger


# -- providers.md


def test_the_tables_of_the_providers_are_as_catalogue_and_dialects_have_them() -> None:
    page = doc("providers.md")
    assert providers_doc.written(page) == page, "run `make docs`"


# -- architecture.md


def test_the_folders_and_their_imports_are_those_of_the_map() -> None:
    text = doc("architecture.md").partition("## Folders")[2].partition("\n## ")[0]
    shown = {
        name.strip("`/"): EVERYTHING if imports == "everything" else frozenset(re.findall(r"\w+", imports)) - {"nothing"}
        for name, _, imports in rows(text)
        if name.startswith("`") and name.endswith("/`")
    }
    assert shown == {name: allowed for name, allowed in MAY_IMPORT.items() if (PACKAGE / name).is_dir()}


def test_every_dependency_has_its_reason_and_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = sorted(re.split(r"[<>=; ]", requirement)[0] for requirement in project["dependencies"])
    table = rows(doc("architecture.md").partition("## What is depended on")[2].partition("with what they bring along")[0])
    assert [package.strip("`") for package, licence, why in table if licence and why] == needed


def test_the_modules_that_the_processes_run_as_can_be_started() -> None:
    for name in re.findall(r"`python -m ([\w.]+)`", doc("architecture.md")):
        source = (ROOT / (name.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        assert 'if __name__ == "__main__":' in source
        assert importlib.util.find_spec(name) is not None
