"""What is said at the start: every chain, also those whose name holds a `*`, with what cannot be asked in brackets."""

from pathlib import Path

import pytest

from proxy.config.load import load
from proxy.server.banner import banner

pytestmark = pytest.mark.unit

FILE = """\
chains:
  smart: [groq/a, openai/b]
  "gpt-*": [openai/gpt-*, groq/openai/gpt-*, {static: "Later."}]
  "*": [groq/*]
"""


def test_every_chain_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    file.write_text(FILE, encoding="utf-8")
    settings = load(file, environ={"OPENAI_API_KEY": "sk-fake-key-abcd"})
    shown = banner(settings, version="1", host="127.0.0.1", port=8080, started_ms=1).splitlines()
    assert [line for line in shown if line.startswith("  chain ")] == [
        "  chain    smart        (groq/a) -> openai/b",
        "  chain    gpt-*        openai/gpt-* -> (groq/openai/gpt-*) -> static/static",
        "  chain    *            (groq/*)",
    ]


def test_where_there_are_only_wildcards_they_are_set_off_as_well(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    file.write_text('chains: {"*": [demo/*]}', encoding="utf-8")
    shown = banner(load(file, environ={}), version="1", host="::1", port=8080, started_ms=1).splitlines()
    at = shown.index("  chain    *            demo/*")
    assert (shown[at - 1], shown[at + 1]) == ("", "")
    assert shown[0].startswith("Tollbridge 1 is ready after 1 ms: http://[::1]:8080/v1")
