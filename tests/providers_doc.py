"""The parts of `docs/providers.md` that are made, of the catalogue and by asking each dialect what becomes of what: `make docs`.

A part stands between two comments, `<!-- made: NAME -->` and `<!-- end -->`; the rest of the page is written by hand.
`tests/test_docs.py` fails when the page is not as this would write it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from proxy.config.catalogue import load_catalogue
from proxy.config.load import load
from proxy.core.errors import CannotCarry
from proxy.core.target import FEATURES, Target
from proxy.dialects.anthropic.dialect import AnthropicMessages
from proxy.dialects.bedrock.dialect import BedrockConverse
from proxy.dialects.cohere.dialect import CohereChat
from proxy.dialects.gemini.dialect import Gemini
from proxy.dialects.native import NativeDialect
from proxy.dialects.ollama.dialect import OllamaChat
from proxy.dialects.vertex import Vertex
from tests.dialects.fields import (
    CONVERSATION,
    FIELDS,
    FOREIGN_FIELDS,
    NESTED_FIELDS,
    OURS,
    PDF,
    PNG,
    SCHEMA,
    TOOL,
    WAV,
    chat_request,
    with_field,
)

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "providers.md"
PART = re.compile(r"(<!-- made: ([a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Body = dict[str, Any]

NATIVE: dict[str, NativeDialect] = {
    "anthropic": AnthropicMessages(),
    "gemini": Gemini(),
    "vertex": Vertex(),
    "bedrock": BedrockConverse(),
    "cohere": CohereChat(),
    "ollama": OllamaChat(),
}
# what each column is asked with
COLUMNS = {
    "anthropic: Sonnet 5.5": "anthropic/claude-sonnet-5-5",
    "anthropic: Haiku 4.5": "anthropic/claude-haiku-4-5",
    "gemini: 3.8 Flash": "gemini/gemini-3.8-flash",
    "vertex: 2.5 Flash": "vertex/gemini-2.5-flash",
    "bedrock: Haiku 4.5": "bedrock/anthropic.claude-haiku-4-5-20251001-v1:0",
    "bedrock: Nova Pro": "bedrock/amazon.nova-pro-v1:0",
    "cohere": "cohere/command-a-reasoning-08-2025",
    "ollama": "ollama/qwen3:8b",
}
LABELS = {
    "made_up_by_the_caller": "any other",
    "messages[].made_up": "`messages[]`, any other",
    "messages[].reasoning_details": "`messages[].reasoning_details`, of another provider",
    "messages[].content[].image_url.made_up": "`messages[].content[].image_url`, any other",
    "tools[].made_up": "`tools[]`, any other",
    "tools[].function.made_up": "`tools[].function`, any other",
}
# the proxy's own business, the retired pair that is `tools` and `tool_choice` under other names, and what makes no difference: an
# answer is held to its schema in any case
HIDDEN = OURS | {"function_call", "functions", "response_format.json_schema.strict"}


# -- what becomes of what


@dataclass(frozen=True)
class Row:
    """`body` has something that `without` has not."""

    label: str
    body: Body
    without: Body


def asking(*parts: Body, **fields: Any) -> Body:
    content: Any = [{"type": "text", "text": "What is this?"}, *parts]
    return {"model": "smart", "messages": [{"role": "user", "content": content}], **fields}


def image(url: str) -> Body:
    return {"type": "image_url", "image_url": {"url": url}}


def file(**fields: str) -> Body:
    return {"type": "file", "file": fields}


PLAIN = asking()
INLINE_IMAGE = image(f"data:image/png;base64,{PNG}")
CALLS = [
    {"id": f"call_{number}", "type": "function", "function": {"name": "get_weather", "arguments": f'{{"city": "{city}"}}'}}
    for number, city in enumerate(("Lisboa", "Porto"))
]
RESULTS = [{"role": "tool", "tool_call_id": call["id"], "content": "21 degrees"} for call in CALLS]
CALLED = {**PLAIN, "messages": [*PLAIN["messages"], {"role": "assistant", "content": None, "tool_calls": CALLS}, *RESULTS]}
STRICT = {**TOOL, "function": {**TOOL["function"], "strict": True}}
STRICT["function"]["parameters"] = {**TOOL["function"]["parameters"], "additionalProperties": False}
OTHER_TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "hats", "strict": True, "schema": SCHEMA}}
TOOLS = asking(tools=[TOOL, OTHER_TOOL])
FEATURE_ROWS: tuple[Row, ...] = (
    Row(
        "system and developer messages",
        {
            **PLAIN,
            "messages": [
                {"role": "system", "content": "Be kind."},
                *PLAIN["messages"],
                {"role": "developer", "content": "Be brief."},
            ],
        },
        PLAIN,
    ),
    Row("images, inline", asking(INLINE_IMAGE), PLAIN),
    Row("images, by https link", asking(image("https://images.example/harbour.jpg")), PLAIN),
    Row("PDFs, inline", asking(file(filename="trip.pdf", file_data=f"data:application/pdf;base64,{PDF}")), PLAIN),
    Row("PDFs, by https link", asking(file(file_url="https://files.example/trip.pdf")), PLAIN),
    Row("files by id", asking(file(file_id="file-123")), PLAIN),
    Row("audio", asking({"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}), PLAIN),
    Row("videos, inline", asking({"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAAHGZ0eXBtcDQy"}}), PLAIN),
    Row("tools", asking(tools=[TOOL]), PLAIN),
    Row("strict tools", asking(tools=[STRICT]), PLAIN),
    Row("custom tools", asking(tools=[{"type": "custom", "custom": {"name": "shell"}}]), PLAIN),
    Row("`tool_choice`: none", {**TOOLS, "tool_choice": "none"}, TOOLS),
    Row("`tool_choice`: required", {**TOOLS, "tool_choice": "required"}, TOOLS),
    Row("`tool_choice`: one function", {**TOOLS, "tool_choice": NAMED}, TOOLS),
    Row("`tool_choice`: allowed_tools", {**TOOLS, "tool_choice": ALLOWED}, TOOLS),
    Row("parallel calls and their results", CALLED, PLAIN),
    Row(
        "an image in a tool's result",
        {**CALLED, "messages": [*CALLED["messages"][:-1], {**RESULTS[1], "content": [INLINE_IMAGE]}]},
        CALLED,
    ),
    Row("JSON mode", asking(response_format={"type": "json_object"}), PLAIN),
    Row("JSON schema", asking(response_format=JSON_SCHEMA), PLAIN),
    Row("JSON schema beside tools", {**TOOLS, "response_format": JSON_SCHEMA}, TOOLS),
    Row("answers that are spoken", asking(modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}), PLAIN),
)


def field_rows() -> Iterator[Row]:
    for name in sorted((*FIELDS, *FOREIGN_FIELDS), key=lambda name: (name in LABELS, name)):
        if name not in HIDDEN:
            yield Row(LABELS.get(name, f"`{name}`"), *with_field(name))


def nested_rows() -> Iterator[Row]:
    for name in NESTED_FIELDS:
        if name in HIDDEN:
            continue
        other = "tools" if name.startswith("response_format") else "response_format"  # not every model takes both
        body, without = ({key: value for key, value in one.items() if key != other} for one in with_field(name))
        yield Row(LABELS.get(name, f"`{name}`"), body, without)


def own_thoughts(target: Target) -> Row:
    """A conversation in which the target itself once thought, which comes back as it was told: sealed, where it seals."""
    dialect, provider = target.provider.dialect, target.provider.name
    match dialect:
        case "cohere" | "ollama":
            told: Body = {"reasoning_content": "By the bridge."}
        case "gemini" | "vertex":
            told = {"reasoning_details": [{"type": "reasoning.encrypted", "data": "c2ln", "id": "call_w1", "format": "gemini"}]}
        case _:
            sealed = {"type": "reasoning.text", "text": "By the bridge.", "signature": "c2ln", "format": dialect}
            told = {"reasoning_details": [sealed]}
    told = {name: value if isinstance(value, str) else [{**value[0], "provider": provider}] for name, value in told.items()}
    without = {name: value for name, value in CONVERSATION.items() if name != "response_format"} | {"reasoning_effort": "high"}
    messages = [*without["messages"]]
    messages[2] = {**messages[2], **told}
    return Row("thoughts", {**without, "messages": messages}, without)


def fate(row: Row, target: Target) -> str:
    """Carried, in part (and named), dropped (and named), or the target is skipped. Anything else is a fault of the dialect."""
    dialect = NATIVE[target.provider.dialect]
    try:  # what must stand beside it, as `logprobs` beside `top_logprobs`, may be too much already
        base = dialect.encode_request(chat_request(row.without), target)
        found = dialect.encode_request(chat_request(row.body), target)
    except CannotCarry:
        return "skipped"
    changed = (found.path, orjson.loads(found.body)) != (base.path, orjson.loads(base.body))
    named = set(found.dropped) - set(base.dropped)
    assert changed or named, f"{row.label} is neither on the wire nor named as dropped by {target.name}"
    return ("in part" if changed else "dropped") if named else "carried"


def column_targets() -> dict[str, Target]:
    environ = {"AWS_REGION": "us-east-1", "GOOGLE_CLOUD_PROJECT": "p1"}
    keys = {f"{name}_API_KEY": "k-1" for name in ("ANTHROPIC", "GEMINI", "COHERE")}
    settings = load(ROOT / "tests" / "dialects" / "native_providers.yaml", environ={**environ, **keys})
    chains = {column: settings.resolve(name) for column, name in COLUMNS.items()}
    return {column: chain.targets[0] for column, chain in chains.items() if chain is not None}


# -- the parts


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return line(head) + "|" + "---|" * len(head) + "\n" + "".join(map(line, rows))


def fates(head: str, rows: Iterable[Row], targets: Mapping[str, Target]) -> str:
    lines = [[row.label, *(fate(row, target) for target in targets.values())] for row in rows]
    return table([head, *targets], lines)


def codes(names: Iterable[str]) -> str:
    return ", ".join([f"`{name}`" for name in names]) or "—"


def quirk_words(quirks: Mapping[str, Any]) -> list[str]:
    words = [f"`{name}` → `{better}`" for name, better in quirks.get("rename", {}).items()]
    words = [", ".join(words)] if words else []
    if quirks.get("drop"):
        words.append(f"drops {codes(quirks['drop'])}")
    if quirks.get("refuse"):
        words.append(f"not used for {codes(quirks['refuse'])}")
    if quirks.get("drop_in_messages"):
        words.append(f"drops of messages {codes(quirks['drop_in_messages'])}")
    if quirks.get("call_id_length"):
        words.append(f"ids of calls of {quirks['call_id_length']} characters")
    if quirks.get("prefix") is not None:
        words.append("goes on with a last assistant message")
    if quirks.get("developer_role"):
        words.append(f"`developer` → `{quirks['developer_role']}`")
    if quirks.get("usage_in_stream") == "always":
        words.append("usage unasked")
    if quirks.get("reasoning_excluded"):
        words.append("reasoning not in `completion_tokens`")
    return words


def providers(stanzas: Mapping[str, Body]) -> str:
    lines = []
    for name, stanza in stanzas.items():
        key = codes(stanza["key_env"]) + (" (optional)" if stanza["key"] == "optional" else "")
        lines.append(
            (
                f"`{name}`{' †' if stanza.get('retired') else ''}",
                f"`{stanza['dialect']}`",
                key,
                f"`{stanza['base_url']}`" if stanza["base_url"] else codes(stanza["base_url_env"]),
                codes([path for path in (stanza["models_path"], stanza.get("check_path")) if path]),
                "; ".join(quirk_words(stanza.get("quirks", {}))) or "—",
                codes(stanza.get("lacks", ())),
                f"[docs]({stanza['docs']})",
            )
        )
    return table(("provider", "format", "key", "base URL", "model list", "quirks", "cannot", ""), lines)


def models(stanzas: Mapping[str, Body]) -> str:
    """Rows that say the same are one row, also of several providers."""
    told: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, stanza in stanzas.items():
        for pattern, facts in stanza.get("models", {}).items():
            said: tuple[str, ...] = (
                f"{facts['context']:,}" if "context" in facts else "",
                f"{facts['max_output']:,}" if "max_output" in facts else "",
                "yes" if facts.get("reasoning") else "",
                "; ".join(quirk_words(facts.get("quirks", {}))),
                ", ".join(f"`{word}`" for word in sorted({*stanza.get("lacks", ()), *facts.get("lacks", ())})),
            )
            told.setdefault((pattern, said), []).append(name)
    grouped: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for (pattern, said), names in told.items():
        grouped.setdefault((tuple(names), said), []).append(pattern)
    lines = [(codes(names), codes(patterns), *said) for (names, said), patterns in grouped.items()]
    return table(("provider", "models", "context", "longest answer", "thinks unasked", "quirks", "cannot"), lines)


def parts() -> dict[str, str]:
    stanzas: dict[str, Body] = yaml.safe_load((ROOT / "proxy" / "catalogue.yaml").read_text(encoding="utf-8"))
    assert stanzas.keys() == load_catalogue().keys()
    del stanzas["demo"]
    targets = column_targets()
    thoughts = [fate(own_thoughts(target), target) for target in targets.values()]
    regions = [
        (f"`{name}`", f"`{place}`", f"`{url}`")
        for name, stanza in stanzas.items()
        for place, url in (stanza.get("region_urls") or stanza.get("place_urls") or {}).items()
    ]
    return {
        "providers": providers(stanzas),
        "retired": "".join(f"- `{name}`: {stanza['retired']}.\n" for name, stanza in stanzas.items() if "retired" in stanza),
        "columns": table(("column", "asked with"), [(column, f"`{name}`") for column, name in COLUMNS.items()]),
        "features": fates("feature", FEATURE_ROWS, targets) + line(["its own thoughts, sent back", *thoughts]),
        "fields": fates("field", field_rows(), targets),
        "nested": fates("field", nested_rows(), targets),
        "words": table(("word", "what it stands for"), [(f"`{word}`", meaning) for word, meaning in FEATURES.items()]),
        "models": models(stanzas),
        "addresses": table(
            ("provider", "variable"),
            [(f"`{name}`", codes(stanza["base_url_env"])) for name, stanza in stanzas.items() if stanza["base_url_env"]],
        ),
        "regions": table(("provider", "place", "address"), regions),
        "unverified": "".join(
            f"- `{name}`: {line}.\n" for name, stanza in stanzas.items() for line in stanza.get("unverified", ())
        ),
    }


def written(page: str) -> str:
    made = parts()
    assert sorted(made) == sorted(name for _, name, _ in PART.findall(page)), "each part has its place in the page, once"
    return PART.sub(lambda found: f"{found[1]}\n{made[found[2]]}\n{found[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
