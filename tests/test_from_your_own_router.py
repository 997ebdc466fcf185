"""Every snippet of docs/from-your-own-router.md, run one after the other against a proxy and two providers that answer."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from proxy.config.load import load
from tests.e2e.client import until
from tests.e2e.running import Process

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/from-your-own-router.md").read_text(encoding="utf-8")
TOKEN = "admin-token-0123456789"
KEYS = {name: f"key-of-{name}-0123456789" for name in ("GROQ_API_KEY", "OPENAI_API_KEY", "COHERE_API_KEY")}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def completion(request: Request) -> Response:
    """As OpenAI answers, in one piece or streamed."""
    body = request.get_json()
    common = {"id": "x", "created": 1, "model": body["model"]}
    usage = {"prompt_tokens": 40, "completion_tokens": 10, "total_tokens": 50}
    if not body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "Up."}, "finish_reason": "stop"}
        answer = {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
        return Response(json.dumps(answer), content_type="application/json")
    deltas = [({"role": "assistant", "content": "Up"}, None), ({"content": "."}, None), ({}, "stop")]
    events = [
        {**common, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in deltas
    ]
    events.append({**common, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return Response(text, content_type="text/event-stream")


@pytest.fixture
def folder(tmp_path: Path, httpserver: HTTPServer) -> Path:
    """With the page's configuration, its providers pointed at the one that answers here: groq fails, openai does not."""
    httpserver.expect_request("/groq/chat/completions").respond_with_json({"error": {"message": "busy"}}, status=503)
    httpserver.expect_request("/openai/chat/completions").respond_with_handler(completion)
    for name in ("groq", "openai"):
        httpserver.expect_request(f"/{name}/models").respond_with_json({"data": [{"id": "a"}]})
    file = yaml.safe_load(blocks("yaml")[0])
    for name, stanza in file["providers"].items():
        stanza["base_url"] = httpserver.url_for(f"/{name}")
    file["auth"] = {"admin_token": "${TOLLBRIDGE_ADMIN_TOKEN}"}
    (tmp_path / "providers.yaml").write_text(yaml.safe_dump(file), encoding="utf-8")
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[Process]:
    process = Process(folder / "providers.yaml", folder, environ={**KEYS, "TOLLBRIDGE_ADMIN_TOKEN": TOKEN})
    process.ready()
    file = yaml.safe_load((folder / "providers.yaml").read_text(encoding="utf-8"))
    file["server"] = {"port": process.port}  # for the command line
    (folder / "providers.yaml").write_text(yaml.safe_dump(file), encoding="utf-8")
    yield process
    process.kill()


@pytest.mark.parametrize("text", blocks("yaml"), ids=["chain", "alerts"])
def test_each_configuration_is_a_good_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "providers.yaml"
    path.write_text(text, encoding="utf-8")
    settings = load(path, environ={**KEYS, "SLACK_URL": "https://hooks.slack.com/services/T/B/x"})
    assert settings.warnings == ()


def test_the_programs_do_what_the_page_says(served: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLBRIDGE_ADMIN_TOKEN", TOKEN)
    names: dict[str, Any] = {}
    for text in blocks("python"):
        if "request_id}" in text:
            until_they_are_there(names)
        exec(compile(text.replace("127.0.0.1:8080", f"127.0.0.1:{served.port}"), "from-your-own-router.md", "exec"), names)
    assert names["text"] == "Up."
    assert "".join(names["pieces"]) == "Up."
    assert (names["answered_by"], names["fallback_used"]) == ("openai", True)
    assert names["tried"] == [("groq", "failed"), ("openai", "ok")]
    assert (Decimal(names["cost"]), names["tokens"]) == (Decimal("0.00003"), 50)
    assert set(names["by_department"]) >= {"research", "support", None}
    assert names["research"]["calls"] >= 1
    assert names["search"]["calls"] == 1
    assert names["usable"]
    assert set(names["reasons"]) >= {"groq", "openai"}
    assert names["calls"] >= 6
    assert names["fallbacks"] >= 1
    assert Decimal(names["this_month"]) > 0
    assert set(names["left"]) == {"groq", "cohere"}
    assert names["lasts"] == {"groq": 14_400 / 20, "cohere": 500}
    assert set(names["spent_share"]) == {"openai", "research"}
    assert isinstance(names["open_alerts"], list)
    assert isinstance(names["suggestions"], list)
    client = names["client"]
    client.close()


def until_they_are_there(names: dict[str, Any]) -> None:
    """A row is there within a second of its request's end: all six that were sent so far."""

    def there() -> bool:
        return bool(sum(row["requests"] for row in names["tollbridge"]("/api/v1/usage")["data"]) == 6)

    until(there, what="the rows")


def test_the_commands_do_what_the_page_says(served: Process, folder: Path) -> None:
    program = folder / "bin" / "tollbridge"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -P -m proxy "$@"\n', encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, **KEYS, "TOLLBRIDGE_ADMIN_TOKEN": TOKEN, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    for text in blocks("sh"):
        done = subprocess.run(["sh", "-e", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    assert {"usage.csv", "week.md"} <= {path.name for path in folder.iterdir()}


def test_every_line_of_the_table_leads_to_its_part() -> None:
    table = PAGE.partition("|---|---|")[2].partition("\n\n")[0]
    parts = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\(#([\w-]+)\)", table)) == parts
