"""The command line: what it prints, for people and for machines, and how it exits."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from proxy.app import serve
from proxy.cli import app, main, make_ready
from proxy.core.version import VERSION
from proxy.storage.drainer import Drainer
from tests.command_line import invoke
from tests.storage.records import completion, failover, rejected, request_id, write

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
COMMANDS = (
    *("serve", "check", "schema", "status", "health", "usage", "ledger", "budgets", "quotas", "alerts", "advice", "report"),
    *("requests", "models", "selftest", "version"),
)
FILE = """\
server: {port: 1}
providers:
  openai: {api_key: "${OPENAI_API_KEY}"}
  groq: {}
chains:
  smart: [groq/llama-3.3-70b-versatile, openai/gpt-4o]
  demo: [demo/down, demo/chat]
"""


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def data(self) -> Any:
        return json.loads(self.out)["data"]


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command in an empty folder, with one key in the environment and a terminal wide enough for every table."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.endswith(("_API_KEY", "_TOKEN")) or name.startswith("TOLLBRIDGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-fake-key-abcd")

    def run(*arguments: str) -> Result:
        done = invoke(list(arguments))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "providers.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Three requests of this hour: one plain, one after a failover, one refused."""
    now_ms = int(time.time() * 1000)
    data_dir = tmp_path / "data"
    write(data_dir, [*completion(1, now_ms), *failover(2, now_ms), rejected(3, now_ms, client="[red]hostile[/red]")])
    drainer = Drainer(data_dir, time.time)
    drainer.drain()
    drainer.close()
    return data_dir


def test_version(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("version").out.startswith(f"tollbridge {VERSION} ")
    monkeypatch.setattr(sys, "argv", ["tollbridge", "--version"])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    assert capsys.readouterr().out == run("version").out, "as people ask it of any program"
    assert run("version", "--json").data["version"] == VERSION


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert done.code == 0
    assert f"tollbridge {command}" in done.out or f"{command} [OPTIONS]" in done.out


def test_python_m_proxy_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Usage: tollbridge" in done.stdout
    assert all(f" {command} " in done.stdout for command in COMMANDS)


def test_a_good_file_passes_and_says_what_is_odd(run: Run, file: Path) -> None:
    done = run("check")
    assert done.code == 0
    assert "2 chains, 3 providers (2 usable), 0 clients" in done.out
    with file.open("a", encoding="utf-8") as more:
        more.write('  "gpt-*": [openai/gpt-*]\n')
    assert "3 chains, 3 providers" in run("check").out
    assert "GROQ_API_KEY" in done.err


def test_every_fault_stands_on_a_line_of_its_own(run: Run, file: Path) -> None:
    file.write_text("serverr: {}\nchains:\n  smart: [openia/gpt-5]\n", encoding="utf-8")
    done = run("check")
    assert done.code == 1
    lines = done.out.splitlines()
    assert len(lines) == 2
    assert all(re.match(r"providers\.yaml:\d+:\d+: .+", line) for line in lines)
    assert "did you mean 'server'?" in lines[0]
    assert "docs/troubleshooting.md#a-fault-of-check" in done.err
    as_json = run("check", "--json")
    assert as_json.code == 1
    assert [(fault["file"], fault["line"]) for fault in as_json.data["faults"]] == [("providers.yaml", 1), ("providers.yaml", 3)]


def test_a_file_that_is_not_there_is_a_fault(run: Run) -> None:
    done = run("check", "--config", "nowhere.yaml")
    assert done.code == 1
    assert done.out.startswith("nowhere.yaml:1:1: cannot be read")


def test_a_variable_can_name_the_file(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.rename(file.with_name("other.yaml"))
    monkeypatch.setenv("TOLLBRIDGE_CONFIG", "other.yaml")
    assert "other.yaml: ok" in run("check").out


@pytest.mark.parametrize("command", ["usage", "requests", "status", "models"])
def test_a_report_on_a_broken_file_fails_and_says_why(run: Run, file: Path, command: str) -> None:
    file.write_text("serverr: {}\n", encoding="utf-8")
    done = run(command)
    assert (done.code, done.out) == (1, "")
    assert "providers.yaml:1:1:" in done.err
    as_json = run(command, "--json")
    error = json.loads(as_json.out)["error"]
    assert (as_json.code, as_json.err) == (1, "")
    assert error["message"].startswith("providers.yaml:1:1: unknown key 'serverr'")
    assert [(fault["line"], fault["col"]) for fault in error["faults"]] == [(1, 1)]


@pytest.mark.parametrize("command", ["usage", "requests"])
def test_a_report_with_a_data_dir_needs_no_file(run: Run, file: Path, ledger: Path, command: str) -> None:
    file.write_text("serverr: {}\n", encoding="utf-8")
    assert run(command, "--data-dir", "data").code == 0
    missing = run(command, "--data-dir", "nowhere")
    assert missing.code == 1
    assert "nowhere" in missing.err


def test_check_live_asks_for_the_list_and_tells_good_keys_from_bad(run: Run, file: Path, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/good/models", headers={"authorization": "Bearer sk-fake-key-abcd"}).respond_with_json(
        {"data": [{}, {}]}
    )
    httpserver.expect_request("/bad/models").respond_with_data("no", status=401)
    text = FILE.replace(
        "groq: {}", f'good: {{dialect: openai, base_url: "{httpserver.url_for("/good")}", api_key: "${{OPENAI_API_KEY}}"}}'
    )
    text = text.replace('openai: {api_key: "${OPENAI_API_KEY}"}', "").replace(
        "groq/llama-3.3-70b-versatile, openai/gpt-4o", "good/m"
    )
    file.write_text(text, encoding="utf-8")
    done = run("check", "--live", "--json")
    assert done.code == 0
    (found,) = done.data
    assert (found["provider"], found["key"], found["state"], found["models"]) == ("good", "…abcd", "ok", 2)
    file.write_text(text.replace("/good", "/bad"), encoding="utf-8")
    done = run("check", "--live")
    assert done.code == 1
    assert "bad_key" in done.out
    assert "sk-fake" not in done.out + done.err


def test_the_schema_is_one_that_an_editor_can_use(run: Run) -> None:
    printed = run("schema").out
    assert printed == (ROOT / "proxy/config/providers.schema.json").read_text(encoding="utf-8")
    schema = json.loads(printed)
    assert schema["$schema"].endswith("/schema")
    assert {"server", "providers", "chains", "clients"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_models_are_those_of_the_api(run: Run, file: Path) -> None:
    listed = run("models", "--json").data
    assert [entry["id"] for entry in listed] == ["smart", "demo", "openai/gpt-4o", "demo/down", "demo/chat"]
    assert {entry["object"] for entry in listed} == {"model"}
    assert "demo/down → demo/chat" in run("models").out


def test_without_a_file_there_is_the_demo(run: Run) -> None:
    assert run("check").code == 0
    assert "there is no such file, so only the demo provider answers" in run("check").err
    assert run("status", "--json").data["data_dir"] == "data"
    missing = run("check", "--config", "nowhere.yaml")
    assert missing.code == 1
    assert "nowhere.yaml:1:1: cannot be read" in missing.out


def test_usage_sums_up_and_groups(run: Run, file: Path, ledger: Path) -> None:
    by_provider = {row["provider"]: row for row in run("usage", "--by", "provider", "--json").data}
    assert by_provider["openai"]["requests"] == 2
    assert by_provider["openai"]["input_tokens"] == 200
    assert by_provider["openai"]["cost_usd"] == "0.0025"
    assert by_provider["groq"]["attempts"] == 1
    shown = run("usage", "--by", "provider,model", "--since", "2h")
    assert shown.code == 0
    assert "$0.002500" in shown.out
    assert "gpt-4o" in shown.out


def test_the_data_dir_is_relative_to_the_file(run: Run, file: Path, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "elsewhere").mkdir()
    monkeypatch.chdir(file.parent / "elsewhere")
    assert len(run("requests", "--config", "../providers.yaml", "--json").data) == 3


@pytest.mark.parametrize("options", [["--since", "yesterday"], ["--until", "7y"], ["--by", "colour"]])
def test_what_cannot_be_meant_is_refused(run: Run, file: Path, options: list[str]) -> None:
    assert run("usage", *options).code == 2


def test_an_outcome_that_there_is_not_is_refused_with_those_that_there_are(run: Run, file: Path, ledger: Path) -> None:
    done = run("requests", "--outcome", "error")
    assert done.code == 2
    assert "--outcome" in done.err
    assert "client_gone" in done.err


@pytest.mark.parametrize("since", ["90m", "12h", "7d", "1w", "2020-01-01", "2020-01-01T00:00:00Z"])
def test_a_begin_is_an_age_or_a_date(run: Run, file: Path, ledger: Path, since: str) -> None:
    assert sum(row["requests"] for row in run("usage", "--since", since, "--json").data) == 3


def test_nothing_recorded_is_an_empty_report_and_no_failure(run: Run, file: Path) -> None:
    for command in ("usage", "requests"):
        assert run(command, "--json").data == []
        assert run(command).code == 0


def test_requests_are_listed_filtered_and_paged(run: Run, file: Path, ledger: Path) -> None:
    newest, older = run("requests", "--json", "--limit", "1"), run("requests", "--json", "--model", "smart", "--outcome", "ok")
    assert len(newest.data) == 1
    assert json.loads(newest.out)["next"] == newest.data[0]["id"]
    assert len(older.data) == 2
    assert len(run("requests", "--json", "--before", newest.data[0]["id"]).data) == 2
    shown = run("requests")
    assert "openai/gpt-4o" in shown.out
    assert "[red]hostile[/red]" in shown.out, "a name is text and not markup"


def test_one_request_shows_its_attempts_and_why_each_target_was_kept_or_skipped(run: Run, file: Path, ledger: Path) -> None:
    wanted = next(row["id"] for row in run("requests", "--json").data if row["attempts"] == 2)
    detail = run("requests", wanted, "--json").data
    assert [attempt["provider"] for attempt in detail["attempt_list"]] == ["groq", "openai"]
    shown = run("requests", wanted)
    assert "skipped: no key: set GROQ_API_KEY" in shown.out
    assert "connection refused" in shown.out
    missing = run("requests", request_id(99))
    assert missing.code == 1
    assert request_id(99) in missing.err


def test_a_ledger_that_cannot_be_read_is_a_failure_and_no_trace(run: Run, file: Path, ledger: Path) -> None:
    (ledger / "ledger.db").write_bytes(b"not a database, but long enough to look like one" * 100)
    done = run("usage", "--json")
    assert done.code == 1
    assert "ledger" in json.loads(done.out)["error"]["message"]


def test_status_says_what_is_there_and_who_answers(run: Run, file: Path, ledger: Path) -> None:
    status = run("status", "--json").data
    assert status["server"]["state"] == "not running"
    assert {p["name"]: p["usable"] for p in status["providers"]} == {"openai": True, "groq": False, "demo": True}
    assert status["chains"][0]["targets"][0]["skipped"] == "no key: set GROQ_API_KEY"
    assert sum(row["requests"] for row in status["last_24h"]) == 3
    shown = run("status")
    assert "skipped: no key: set GROQ_API_KEY" in shown.out
    assert "sk-fake" not in shown.out


def test_status_sees_a_running_server(run: Run, file: Path, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/readyz").respond_with_json({}, headers={"x-request-id": request_id(1)})
    file.write_text(FILE.replace("port: 1}", f"port: {httpserver.port}}}"), encoding="utf-8")
    assert run("status", "--json").data["server"]["state"] == "ready"


def test_output_into_a_pipe_has_no_colours(file: Path, ledger: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "requests", "--data-dir", str(ledger)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\x1b" not in done.stdout


def test_a_folder_that_cannot_be_made_is_a_sentence_and_no_trace(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = Path("/proc/nowhere")
    code = serve(
        config=file, env_file=None, host=None, port=0, workers=1, data_dir=nowhere, log_level=None, began=time.monotonic()
    )
    assert code == 1
    assert "the ledger's folder /proc/nowhere cannot be made: No such file or directory" in capsys.readouterr().err


def test_a_wrong_log_level_is_refused_before_anything_starts(run: Run, file: Path) -> None:
    assert run("serve", "--log-level", "loud").code == 2


@pytest.mark.parametrize("module", ["rich", "httpx2", "aiosqlite", "prometheus_client", "pydantic", "proxy.app"])
def test_the_command_line_itself_imports_next_to_nothing(module: str) -> None:
    program = f"import sys, proxy.cli; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_the_documentation_names_every_command_and_option(run: Run) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        assert f"tollbridge {command}" in text
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", run(command, "--help").out)) - {"--help"}
        assert {option for option in options if option not in text} == set()


@pytest.mark.parametrize(
    ("asked", "commands", "groups"),
    [
        (["serve"], {"serve", "version"}, set()),
        (["ledger"], {"version"}, {"ledger"}),
        (["version"], None, None),  # which would be alone
        (["servve"], None, None),
        (["--help"], None, None),
        ([], None, None),
    ],
)
def test_only_the_command_that_is_asked_for_is_set_up(
    asked: list[str], commands: set[str] | None, groups: set[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names() -> tuple[set[str], set[str]]:
        known = [one.name or one.callback.__name__ for one in app.registered_commands if one.callback is not None]
        return set(known), {str(group.name) for group in app.registered_groups}

    monkeypatch.setattr(app, "registered_commands", app.registered_commands)
    monkeypatch.setattr(app, "registered_groups", app.registered_groups)
    everything = names()
    make_ready(asked)
    assert names() == (everything if commands is None else (commands, groups))
