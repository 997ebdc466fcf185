"""Real traffic through the running proxy: what the SDK reads, what the ledger says, what the provider is sent.

What is replayed is replayed once, when the first test asks for it; each recording is then held to its own four tests. That is every
recording that failed and as many of the others as it takes for everything to occur that occurs in any (`telling`), with
`TOLLBRIDGE_REPLAY=all` all of them: what is decoded of them all without the proxy around it is in
`tests/dialects/test_openai_stream_corpus.py`.
"""

from __future__ import annotations

import asyncio
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from proxy.accounting.usage import usage_from_openai
from proxy.core.redact import one_line
from proxy.core.target import Quirks
from tests.corpus.expected import CACHED_BEYOND_PROMPT, FAILURES, REASONING_BEYOND_COMPLETION, REASONING_EXCLUDED, Failure
from tests.corpus.recordings import FOREIGN_REASONS, Recording, chat_recordings, needs_corpus
from tests.corpus.replay import CATALOGUE, Read, Replay, replay, stanza, telling, traits

pytestmark = [pytest.mark.integration, needs_corpus]

ALL = os.environ.get("TOLLBRIDGE_REPLAY") == "all"
TELLING = {recording.id for recording in telling(chat_recordings())}
RECORDINGS = [recording for recording in chat_recordings() if ALL or recording.id in TELLING or recording.id in FAILURES]
BY_ID = {recording.id: recording for recording in RECORDINGS}
MAX_MESSAGE = 300
SAMPLED = 5  # every so many are replayed over the second transport too

every_recording = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.id)
every_answer = pytest.mark.parametrize(
    "recording", [r for r in RECORDINGS if r.id not in FAILURES], ids=lambda recording: recording.id
)
every_failure = pytest.mark.parametrize(("id_", "failure"), FAILURES.items(), ids=FAILURES)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    folder: Path = tmp_path_factory.mktemp("replay")
    return asyncio.run(replay(RECORDINGS, folder))


def test_every_recording_was_asked_for_once(seen: Replay) -> None:
    assert set(seen.proxied) == set(seen.rows) == set(seen.received) == set(BY_ID)
    assert {len(bodies) for bodies in seen.received.values()} == {1}
    assert {row["attempts"] for row in seen.rows.values()} == {1}


@every_answer
def test_the_sdk_reads_what_was_recorded(recording: Recording, seen: Replay) -> None:
    direct, proxied = seen.direct[recording.id], seen.proxied[recording.id]
    assert direct.error is None
    assert proxied.error is None
    wanted = _in_openais_words(_without_usage_chunk(direct, recording))
    assert [_summary(item) for item in proxied.items] == [_summary(item) for item in wanted]
    assert proxied.items == wanted
    assert proxied.headers["x-tollbridge-provider"] == stanza(recording)
    assert proxied.headers["content-type"].startswith("text/event-stream" if recording.streamed else "application/json")


@every_answer
def test_the_ledger_has_the_recorded_usage(recording: Recording, seen: Replay) -> None:
    row = seen.rows[recording.id]
    assert (row["outcome"], row["http_status"], row["stream"]) == ("ok", 200, recording.streamed)
    assert row["finish_reason"] == recording.finish_reason
    assert (row["provider"], row["upstream_model"]) == (stanza(recording), recording.model)
    if not recording.usage_objects:
        assert row["usage_source"] == "counted"
        assert row["input_tokens"] > 0
        return
    assert row["usage_source"] == "provider"
    said = recording.usage_objects[-1]
    assert _tokens(row) == _recorded_tokens(recording, said)
    usage = usage_from_openai(said, Quirks(reasoning_excluded=recording.provider in REASONING_EXCLUDED))
    assert usage is not None
    assert _tokens(row) == (usage.input_tokens, usage.output_tokens, usage.cached_input_tokens, usage.reasoning_tokens)
    assert row["cache_write_tokens"] == usage.cache_write_tokens


@every_recording
def test_the_provider_gets_what_the_caller_sent(recording: Recording, seen: Replay) -> None:
    [received] = seen.received[recording.id]
    assert received == _as_sent(recording)
    path = seen.paths[recording.id]
    match stanza(recording):
        case "azure":
            assert path == f"/azure/openai/deployments/{recording.model}/chat/completions?api-version=2024-12-01-preview"
        case "azure-v1":
            assert path == "/azure-v1/openai/v1/chat/completions"
        case name:
            assert path == f"/{name}/chat/completions"


@every_failure
def test_an_error_gets_its_class_and_its_status(id_: str, failure: Failure, seen: Replay) -> None:
    if id_ not in BY_ID:
        pytest.skip("this corpus does not have the recording")
    recording, proxied, row = BY_ID[id_], seen.proxied[id_], seen.rows[id_]
    assert proxied.error is not None
    assert (proxied.status, proxied.error["code"]) == (failure.status, failure.code)
    assert proxied.broke_off == (failure.status == 200)
    assert (row["outcome"], row["http_status"]) == ("failed", failure.status)
    [attempt] = seen.details[id_]["attempt_list"]
    assert (attempt["outcome"], attempt["error_class"]) == ("failed", failure.error_class)
    if recording.status != 200:
        assert attempt["http_status"] == recording.status
    if failure.status == 400:
        said = recording.objects[0]["error"]
        assert one_line(said["message"], MAX_MESSAGE) in proxied.error["message"]
        assert proxied.error["param"] == said.get("param")
    elif failure.status == 200:
        assert row["usage_source"] == "estimated"
        assert proxied.items == seen.direct[id_].items  # all that came before the error has reached the caller
    if failure.status != 200:
        assert _tokens(row) == (0, 0, 0, 0)


def test_what_is_no_exception_is_no_error(seen: Replay) -> None:
    """The table of failures is complete: whatever it does not name was answered, and it names nothing that was."""
    failed = {id_ for id_, read in seen.proxied.items() if read.error is not None}
    assert failed == FAILURES.keys() & BY_ID.keys()


def test_nothing_occurs_that_is_never_replayed() -> None:
    replayed = {trait for recording in RECORDINGS for trait in traits(recording)}
    assert {trait for recording in chat_recordings() for trait in traits(recording)} == replayed


def test_the_other_transport_makes_no_difference(seen: Replay, tmp_path: Path) -> None:
    other = asyncio.run(replay(RECORDINGS[::SAMPLED], tmp_path, transport="httpx", direct_too=False))
    for id_, read in other.proxied.items():
        native = seen.proxied[id_]
        assert (read.status, read.items, read.error) == (native.status, native.items, native.error), id_
        assert _tokens(other.rows[id_]) == _tokens(seen.rows[id_]), id_
        assert other.received[id_] == seen.received[id_], id_


def _without_usage_chunk(read: Read, recording: Recording) -> list[dict[str, Any]]:
    """The chunk that holds usage and no choice goes to callers that asked for it only."""
    if not recording.streamed or recording.wants_usage_chunk:
        return read.items
    return [item for item in read.items if item.get("choices") or not item.get("usage")]


def _in_openais_words(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for choice in [choice for item in items for choice in item.get("choices") or []]:
        if choice.get("finish_reason") in FOREIGN_REASONS:
            choice["finish_reason"] = FOREIGN_REASONS[choice["finish_reason"]]
    return items


def _summary(item: dict[str, Any]) -> tuple[Any, ...]:
    """What a program looks at first, so that a fault shows as what it is and not as a page of differences."""
    choices = item.get("choices") or []
    said = [choice.get("message") or choice.get("delta") or {} for choice in choices]
    return (
        [message.get("content") for message in said],
        [message.get("tool_calls") for message in said],
        [choice.get("finish_reason") for choice in choices],
        item.get("usage"),
    )


def _tokens(row: dict[str, Any]) -> tuple[int, int, int, int]:
    return row["input_tokens"], row["output_tokens"], row["cached_input_tokens"], row["reasoning_tokens"]


def _recorded_tokens(recording: Recording, said: dict[str, Any]) -> tuple[int, int, int, int]:
    """TRANSLATION's usage map, worked out anew."""
    prompt, completion = said.get("prompt_tokens") or 0, said.get("completion_tokens") or 0
    cached = (
        (said.get("prompt_tokens_details") or {}).get("cached_tokens")
        or said.get("cached_tokens")
        or said.get("prompt_cache_hit_tokens")
        or said.get("num_cached_tokens")
        or 0
    )
    reasoning = (said.get("completion_tokens_details") or {}).get("reasoning_tokens") or said.get("reasoning_tokens") or 0
    if recording.provider in REASONING_EXCLUDED or recording.id in REASONING_BEYOND_COMPLETION:
        completion += reasoning
    if recording.id in CACHED_BEYOND_PROMPT:
        cached = prompt
    return prompt, completion, cached, reasoning


def _as_sent(recording: Recording) -> dict[str, Any]:
    """The caller's body with no more changed than the catalogue says of this provider and model."""
    body = dict(recording.request)
    facts = CATALOGUE.get(stanza(recording), {})
    quirks = [facts.get("quirks", {}), _model_facts(facts, recording.model).get("quirks", {})]
    for quirk in quirks:
        for name, better in quirk.get("rename", {}).items():
            if name in body:
                body[better] = body.pop(name)
        for name in quirk.get("drop", []):
            body.pop(name, None)
        role = quirk.get("developer_role")
        if role is not None:
            body["messages"] = [{**m, "role": role} if m["role"] == "developer" else m for m in body["messages"]]
    if body.get("stream"):
        if any(quirk.get("usage_in_stream", "stream_options") != "stream_options" for quirk in quirks):
            body.pop("stream_options", None)
        else:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    return body


def _model_facts(facts: dict[str, Any], model: str) -> dict[str, Any]:
    models: dict[str, dict[str, Any]] = facts.get("models", {})
    matching = [name for name in models if fnmatchcase(model, name)]
    return models[max(matching, key=lambda name: (name == model, len(name)))] if matching else {}
