"""Every occasion that we could think of for a secret to slip out, taken at once; then the search, which every program ends with.

The provider sends its key back in errors of every kind, the caller writes its key, one that was made at run time and the operator's
token where a model, a path or a tag belongs, and whatever the operator can read is read.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import time
from collections import Counter
from typing import Any

from tests.bench.load import chat_body, request_bytes
from tests.bench.processes import ROOT, HarnessError, python
from tests.soak.stage import CANARIES, Caller, Check, Stage, alone, at_least, none_of

_ECHOES = ("echo-200", "echo-401", "echo-stream", "odd-echo-400", "odd-echo-500", "broken/echo-400", "broken/echo-500")
_TAGS = ("department", "agent", "task", "task-id", "prefer", "priority")
_PAGES = (
    "/livez /readyz /metrics /api/status /api/monitor /api/v1/requests /api/v1/providers /api/v1/admin/monitoring /dashboard /v1/models"
    " /api/v1/usage?group_by=provider,model,client,department,agent,task /api/v1/monitoring/dashboard /api/v1/monitoring/health-check"
    " /api/v1/monitoring/provider-status /api/v1/monitoring/cost-analysis /api/v1/monitoring/alerts /api/v1/monitoring/budget-alerts"
    " /api/v1/monitoring/fallback-stats /api/v1/keys /openapi.json /api/v1/config"
).split()
_COMMANDS = ("status", "requests", "usage", "health", "check")


async def act(stage: Stage) -> list[Check]:
    made = _runtime_key(stage)
    CANARIES.add(made)
    before = len(CANARIES.hits)
    statuses: Counter[int] = Counter()
    asked = 0
    for model in _ECHOES:
        for stream in (False, True):
            asked += 1
            statuses[await _send(stage, f"the answer to {model}", chat_body(model, stream=stream, prompt_bytes=20))] += 1
    for secret in (*CANARIES.all(), made):
        for where, body, headers in _misplaced(secret):
            asked += 1
            statuses[await _send(stage, where, body, *headers)] += 1
        for path in (f"/v1/models/{secret}", f"/{secret}", f"/api/v1/requests/{secret}", f"/v1/models?key={secret}"):
            statuses[stage.get(path, headers={"x-api-key": CANARIES.client_key})[0]] += 1
            statuses[stage.get(path)[0]] += 1
        # each of them shown where it does not belong: some are let in, as they should be
        for path in ("/metrics", "/api/v1/requests", "/v1/models", "/dashboard"):
            statuses[stage.get(path, headers={"authorization": f"Bearer {secret}"})[0]] += 1
            statuses[stage.get(path, headers={"cookie": f"tollbridge={secret}", "x-api-key": secret})[0]] += 1
    await stage.settled()
    answered = sum(stage.get(path)[0] == 200 for path in _PAGES)
    requests = stage.api(f"/api/v1/requests?limit={asked}")["data"]
    for row in requests:
        stage.get(f"/api/v1/requests/{row['id']}")
    printed = 0 if stage.options.short else await asyncio.to_thread(_commands, stage)
    return [
        Check("answers", ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))),
        at_least("rows looked at", len(requests), asked // 2, "rows"),
        at_least("pages looked at", answered, len(_PAGES) - 4, "pages"),
        Check("bytes printed by commands", f"{printed:,}"),
        none_of("canaries in an answer", len(CANARIES.hits) - before),
        *(Check("found in", where, "", False) for where in sorted(set(CANARIES.hits[before:]))),
    ]


def _runtime_key(stage: Stage) -> str:
    """Made by the operator. The answer to that is the one place where it may stand."""
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=30)
    headers = {**CANARIES.authorization(), "content-type": "application/json"}
    connection.request("POST", "/api/v1/keys", json.dumps({"name": f"made-{time.monotonic_ns()}"}), headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    if "key" not in answer:
        raise HarnessError(f"POST /api/v1/keys: {answer}")
    return str(answer["key"])


def _misplaced(secret: str) -> list[tuple[str, Any, tuple[str, ...]]]:
    """(what it is called if it comes back, body, headers)"""
    plain = chat_body("mixed", stream=False, prompt_bytes=20)
    return [
        ("a model", {**plain, "model": secret}, ()),
        ("a model of a provider", {**plain, "model": f"mock/{secret}"}, ()),
        ("a user", {**plain, "user": secret}, ()),
        ("a parameter", {**plain, secret: secret, "temperature": secret}, ()),
        ("a role", {**plain, "messages": [{"role": secret, "content": secret}]}, ()),
        ("metadata", {**plain, "metadata": {name.partition("-")[0]: secret for name in _TAGS}}, ()),
        ("a body that is none", f'{{"model": "{secret}'.encode(), ()),
        ("tags", plain, tuple(f"x-tollbridge-{tag}: {secret}" for tag in _TAGS)),
        (
            "other headers",
            plain,
            (f"x-request-id: {secret}", f"traceparent: {secret}", f"cookie: {secret}", f"openai-project: {secret}"),
        ),
        ("a wrong key", plain, (f"x-api-key: {secret}x", f"api-key: {secret[:-1]}")),
    ]


async def _send(stage: Stage, where: str, body: Any, *headers: str) -> int:
    caller = Caller(stage.port, where=where)
    connection = await caller.connected()
    if isinstance(body, bytes):
        sent = request_bytes({}, port=stage.port, key=CANARIES.client_key, headers=headers)
        sent = sent.replace(b"content-length: 2\r\n", b"content-length: %d\r\n" % len(body)).removesuffix(b"{}") + body
    else:
        sent = request_bytes(body, port=stage.port, key=CANARIES.client_key, headers=headers)
    connection.send(sent)
    answer = await caller.answer()
    await caller.close()
    return answer.status


def _commands(stage: Stage) -> int:
    """What the command line prints, as a table and as JSON."""
    options = ["--config", str(stage.server.config)]
    printed = 0
    for command in _COMMANDS:
        for more in ([], ["--json"]):
            found = subprocess.run(
                python("-m", "proxy", command, *options, *more),
                capture_output=True,
                cwd=ROOT,
                env={**stage.server.env(), "PATH": "/usr/bin:/bin"},
                check=False,
            )
            printed += len(found.stdout)
            CANARIES.look(f"tollbridge {command} {json.dumps(more)}", found.stdout + found.stderr)
    return printed


run = alone(act)
