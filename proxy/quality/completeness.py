"""Whether an answer is whole: not refused, not cut off, in the form and with the parts that were asked for.

Each fault that is found multiplies what is left by its factor, so that several count together:

    empty, filtered, refused, not_json            0
    unknown_tool, bad_arguments                   0
    cut_off, unfinished, open_code, schema        0.1
    broken_json, unbalanced_code                  0.3
    wrapped_json                                  0.4        JSON mode only: the caller's parser takes nothing else
    partly_refused                                0.5
    cut_by_limit                                  0.7        another target would be cut as well
    parts_missing                                 0.3 + 0.7 * the share of parts that are there
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from proxy.quality.answer import Answer
from proxy.quality.asked import Asked
from proxy.quality.refusals import refusal_in
from proxy.quality.sample import ends
from proxy.quality.schema import satisfies
from proxy.quality.verdict import Part

FACTORS: Final[Mapping[str, float]] = {
    "empty": 0.0,
    "filtered": 0.0,
    "refused": 0.0,
    "not_json": 0.0,
    "unknown_tool": 0.0,
    "bad_arguments": 0.0,
    "cut_off": 0.1,
    "unfinished": 0.1,
    "open_code": 0.1,
    "schema": 0.1,
    "broken_json": 0.3,
    "unbalanced_code": 0.3,
    "wrapped_json": 0.4,
    "partly_refused": 0.5,
    "cut_by_limit": 0.7,
}
MAX_BLOCKS: Final = 20
MAX_BLOCK: Final = 20_000
MAX_CODE: Final = 80_000  # characters in which blocks are looked for
MAX_TEXT: Final = 40_000  # of which parts are counted: the beginning and the end
MAX_LINE: Final = 4_000
LEAST_PROSE: Final = 5  # words of a last line that should end like a sentence
LONE_PROSE: Final = 30  # and of one that is all there is: a title, a headline or a summary of a line may do without

_LANGUAGE = re.compile(r"[\w+#.-]*")
_STOPS = frozenset(".!?…。！？।؟۔")
_CLOSERS = "”\"'’»)]}」』›*_`）】"
_ITEM = re.compile(r"^\s*(?:[-*•–·]|\d{1,3}[.)]|[a-zA-Z][.)]|\||#|>)\s*")
_PLAIN_WORD = re.compile(r"[^\W\d_]+-?|.*[぀-ヿ一-鿿가-힯]")  # rather than a link, a name of a file, a flag
_LEFT_OPEN = frozenset(
    """the a an and or but of to in on at for with by from is are was were that which because if as its their this your into than
    der die das ein eine einen und oder aber von zu mit für im am ist sind dass weil des dem den bei
    le la les un une des et ou mais de du à pour avec est sont que qui dans sur
    el los las una y o pero en con por para es son il lo gli di e ma per che o a os as um uma em com não het een van voor met en""".split()
)
_UNSPACED_END = re.compile(r"[぀-ヿ一-鿿가-힯]$")
_LIST_LINE = re.compile(r"(?m)^[ \t]*(?:[-*•–·][ \t]+\S|(?:\*\*)?\d{1,3}[.)．、][ \t]*\S|#{1,6}[ \t]+\S|\*\*[^*\n]+\*\*)")
_TABLE_LINE = re.compile(r"(?m)^[ \t]*\|.*\|[ \t]*$")
_OPENERS = {"(": ")", "[": "]", "{": "}"}
_SPECIAL = re.compile(r'"""|\'\'\'|//|/\*|["\'`#]')
_CLOSED = {
    '"': re.compile(r'"(?:[^"\\\n]|\\.){0,500}"'),
    "'": re.compile(r"'(?:[^'\\\n]|\\.){0,500}'"),
    "`": re.compile(r"`(?:[^`\\]|\\.){0,500}`"),
}
_HASH_COMMENTS = frozenset("python py ruby r php json".split())
_BRACKETED = frozenset(
    "python py javascript js typescript ts java c cpp c++ csharp cs go golang rust rs kotlin swift php ruby r scala json".split()
)


def completeness_of(asked: Asked, answer: Answer) -> Part:
    value, reasons = 1.0, []
    for reason, factor in _faults(asked, answer):
        value *= factor
        reasons.append(reason)
    return Part(value, tuple(reasons))


def _faults(asked: Asked, answer: Answer) -> Iterator[tuple[str, float]]:
    if answer.calls:
        for reason in dict.fromkeys(_call_faults(asked, answer)):
            yield reason, FACTORS[reason]
        return
    text = answer.text.strip()
    refused = "whole" if answer.refusal is not None else refusal_in(text)
    nothing = (
        "refused" if refused == "whole"
        else "filtered" if answer.finish_reason == "content_filter"
        else "empty" if not text
        else None
    )  # fmt: skip
    if nothing is not None:
        yield nothing, FACTORS[nothing]
        return
    if refused is not None:
        yield "partly_refused", FACTORS["partly_refused"]
    if asked.json != "no":
        yield from _of_json(asked, text, answer.finish_reason)
    else:
        yield from _of_text(asked, text, answer.finish_reason)


def _of_json(asked: Asked, text: str, finish_reason: str | None) -> Iterator[tuple[str, float]]:
    reason = _json_fault(asked, text)
    if reason is not None:
        yield reason, FACTORS[reason]
    if finish_reason == "length" and reason != "not_json":
        yield from _cut(asked)


def _of_text(asked: Asked, text: str, finish_reason: str | None) -> Iterator[tuple[str, float]]:
    if finish_reason == "length":
        yield from _cut(asked)
    elif (reason := _open_end(text)) is not None:
        yield reason, FACTORS[reason]
    blocks = _blocks(text)
    if any(_is_broken(block) for kind, block in blocks if kind == "json"):
        yield "broken_json", FACTORS["broken_json"]
    elif any(_is_unbalanced(kind, block) for kind, block in blocks if kind in _BRACKETED):
        yield "unbalanced_code", FACTORS["unbalanced_code"]
    share = _parts_there(asked, ends(text, MAX_TEXT))
    if share < 1:
        yield "parts_missing", 0.3 + 0.7 * share


def _cut(asked: Asked) -> Iterator[tuple[str, float]]:
    reason = "cut_by_limit" if asked.limited else "cut_off"
    yield reason, FACTORS[reason]


# -- calls


def _call_faults(asked: Asked, answer: Answer) -> Iterator[str]:
    for call in answer.calls:
        if asked.tools and call.name not in asked.tools:
            yield "unknown_tool"
            continue
        try:
            arguments = orjson.loads(call.arguments or "{}")
        except orjson.JSONDecodeError:
            yield "bad_arguments"
            continue
        if not isinstance(arguments, dict) or not satisfies(arguments, asked.tools.get(call.name)):
            yield "bad_arguments"


# -- JSON


def _json_fault(asked: Asked, text: str) -> str | None:
    parsed, found = _parsed(text)
    wrapped = False
    if not found:
        inner = next((block for kind, block in _blocks(text) if kind in ("json", "")), None)
        if inner is None and asked.json == "words":
            inner = _outermost(text)
        parsed, found = _parsed(inner) if inner is not None else (None, False)
        wrapped = True
    if not found or (asked.json == "mode" and not isinstance(parsed, dict) and asked.schema is None):
        return "not_json"
    if asked.schema is not None and not satisfies(parsed, asked.schema):
        return "schema"
    return "wrapped_json" if wrapped and asked.json == "mode" else None


def _parsed(text: str) -> tuple[Any, bool]:
    try:
        return orjson.loads(text), True
    except orjson.JSONDecodeError:
        return None, False


def _outermost(text: str) -> str | None:
    """From the first opening bracket to the last closing one of its kind."""
    starts = [start for start in (text.find("{"), text.find("[")) if start >= 0]
    if not starts:
        return None
    start = min(starts)
    end = text.rfind(_OPENERS[text[start]])
    return text[start : end + 1] if end > start else None


# -- cut off


def _open_end(text: str) -> str | None:
    """`open_code` or `unfinished`, None for a text that ends as texts do."""
    fences = text.count("\n```") + text.startswith("```")
    if fences % 2:
        return "open_code"
    last = text[-MAX_LINE:].rsplit("\n", 1)[-1].strip()
    if last.startswith(("```", "~~~", "|")) or not last:
        return None
    plain = last.rstrip(_CLOSERS)
    if not plain or plain[-1] in _STOPS:
        return None
    words = _ITEM.sub("", plain).split()
    final = words[-1] if words else ""
    if plain[-1] in ",(" or (len(last) > len(plain) and plain[-1] in "([{"):
        return "unfinished"
    if final in _LEFT_OPEN and len(words) >= LEAST_PROSE - 1:
        return "unfinished"
    if last != plain and last[-1] in _CLOSERS:
        return None
    return "unfinished" if _PLAIN_WORD.fullmatch(final) and _should_stop(text, last, words) else None


def _should_stop(text: str, last: str, words: list[str]) -> bool:
    """Whether the last line is prose, in a text whose prose ends its sentences."""
    if _UNSPACED_END.search(last):
        before = ends(text, 4_000)
        return len(last) > 12 and sum(before.count(stop) for stop in "。！？.") >= 2
    if not last[-1].isalnum() or len(words) < LEAST_PROSE:
        return last[-1] == "-" and len(words) >= LEAST_PROSE
    item = _ITEM.match(last)
    others = [line.strip() for line in ends(text, 8_000).split("\n")[:-1] if line.strip()]
    if item is not None:
        siblings = [line for line in others if _ITEM.match(line) and len(line.split()) >= LEAST_PROSE]
        stopped = [line for line in siblings if line.rstrip(_CLOSERS)[-1:] in _STOPS]
        return len(siblings) >= 1 and len(stopped) * 3 >= len(siblings) * 2
    in_line = any(stop in last[:-1] for stop in (". ", "! ", "? ", "। "))
    prose = [line for line in others if len(line.split()) >= LEAST_PROSE and not _ITEM.match(line)]
    stopped = [line for line in prose if line.rstrip(_CLOSERS)[-1:] in _STOPS or line.endswith((":", ","))]
    return in_line or (len(prose) > 0 and len(stopped) * 3 >= len(prose) * 2) or (not others and len(words) >= LONE_PROSE)


# -- code


def _blocks(text: str) -> list[tuple[str, str]]:
    """(language in lower case, code) of the closed blocks in the first MAX_CODE characters."""
    found: list[tuple[str, str]] = []
    mark, language = "", ""
    lines: list[str] = []
    for line in text[:MAX_CODE].split("\n") if "```" in text or "~~~" in text else ():
        stripped = line.strip()
        if mark and stripped == mark:
            found.append((language, "\n".join(lines)))
            mark = ""
        elif mark:
            lines.append(line)
        elif stripped.startswith(("```", "~~~")):
            said = _LANGUAGE.match(stripped, 3)
            mark, language, lines = stripped[:3], said[0].lower() if said is not None else "", []
        if len(found) >= MAX_BLOCKS:
            break
    return found


def _is_broken(block: str) -> bool:
    """A block that is marked as JSON and does not parse, unless it is a sketch with dots or comments in it."""
    if len(block) >= MAX_BLOCK or "..." in block or "…" in block or "//" in block or not block.strip():
        return False
    return not _parsed(block)[1] and not all(_parsed(line)[1] for line in block.strip().split("\n"))


def _is_unbalanced(language: str, block: str) -> bool:
    """Brackets that nothing closes, strings and comments aside. More closing than opening ones say that this count is wrong."""
    if len(block) >= MAX_BLOCK:
        return False
    bare = _bare(block, "#" if language in _HASH_COMMENTS else "//")
    return any(bare.count(opener) > bare.count(closer) for opener, closer in _OPENERS.items())


def _bare(code: str, comment: str) -> str:
    """The code without its comments and strings. A quote that nothing closes in its line is no string's: an apostrophe, a lifetime."""
    kept: list[str] = []
    at = 0
    while (found := _SPECIAL.search(code, at)) is not None:
        start, mark = found.start(), found[0]
        kept.append(code[at:start])
        at = found.end()
        if mark in ("#", "//"):
            line_end = code.find("\n", at) if mark == comment else at
            at = len(code) if line_end < 0 else line_end
        elif mark == "/*" and comment == "//":
            end = code.find("*/", at)
            at = len(code) if end < 0 else end + 2
        elif len(mark) == 3:
            end = code.find(mark, at)
            at = len(code) if end < 0 else end + 3
        elif mark in _CLOSED and (closed := _CLOSED[mark].match(code, start)) is not None:
            at = closed.end()
    return "".join(kept) + code[at:]


# -- parts


def _parts_there(asked: Asked, text: str) -> float:
    """The share of what was asked for that is there, 1 where nothing can be counted."""
    share = 1.0
    if asked.parts is not None:
        there = max(len(_LIST_LINE.findall(text)), len([line for line in text.split("\n") if line.strip()]), _sentences(text))
        commas = text.count(",") + text.count("、") + text.count("，") + 1 if len(text) < 600 else 0
        share = min(1.0, max(there, commas) / asked.parts)
    if asked.table and len(_TABLE_LINE.findall(text)) < 3 and text.count("\t") < 4 and "<t" not in text:
        share = min(share, 0.3)
    if asked.code and not _looks_like_code(text):
        share = 0.0
    return share


def _sentences(text: str) -> int:
    return sum(text.count(stop) for stop in (". ", ".\n", "! ", "? ", "。", "；", ";")) + 1


def _looks_like_code(text: str) -> bool:
    return (
        "```" in text
        or "`" in text
        or re.search(
            r"(?m)^(?: {4}|\t)\S|[{};][ \t]*$|\)[ \t]*:[ \t]*$|=>|SELECT\s|^[ \t]*(?:def|fn|func|class|import|from|#!)", text
        )
        is not None
    )
