"""What is held against an answer, one case a fault; what is held against none; and that the measure is bounded and never raises."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.quality.answer import MAX_BODY_BYTES, read_answer
from proxy.quality.asked import MAX_CONTEXT, MAX_QUESTION, read_asked
from proxy.quality.completeness import FACTORS
from proxy.quality.languages import language_of, script_of, subject_of
from proxy.quality.measure import measure_bodies
from proxy.quality.refusals import refusal_in
from proxy.quality.sample import thirds
from proxy.quality.verdict import REASONS, Part, Quality, quality_of, with_opinion

pytestmark = pytest.mark.unit

OBJECT: dict[str, Any] = {"response_format": {"type": "json_object"}}
SCHEMA: dict[str, Any] = {
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}},
    }
}
TOOLS: dict[str, Any] = {
    "tools": [
        {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "required": ["q"]}}},
        {"type": "function", "function": {"name": "stop"}},
    ]
}


def measured(ask: str, text: str | None, *, finish: str = "stop", message: dict[str, Any] | None = None, **body: Any) -> Quality:
    request = {"model": "m", "messages": [{"role": "user", "content": ask}], **body}
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **(message or {})}, "finish_reason": finish}
    found = measure_bodies(request, orjson.dumps({"choices": [choice]}))
    assert found is not None
    return found


def calls(*made: tuple[str, str]) -> dict[str, Any]:
    return {"tool_calls": [{"id": "c", "type": "function", "function": {"name": n, "arguments": a}} for n, a in made]}


FAULTS: dict[str, tuple[Quality, set[str]]] = {
    "empty": (measured("Say hello.", ""), {"empty"}),
    "null": (measured("Say hello.", None), {"empty"}),
    "a refusal in its own field": (measured("Say hello.", None, message={"refusal": "No."}), {"refused"}),
    "a refusal": (measured("Write a poem.", "I'm sorry, but I cannot help with that request."), {"refused"}),
    "filtered": (measured("Say hello.", "Hello, this", finish="content_filter"), {"filtered"}),
    "cut off": (measured("Describe Paris.", "Paris is the capital of", finish="length"), {"cut_off"}),
    "cut off where the caller said": (
        measured("Describe Paris.", "Paris is the capital of", finish="length", max_tokens=5),
        {"cut_by_limit"},
    ),
    "stops at a small word": (measured("Describe Paris.", "Paris is a large city. It lies on the"), {"unfinished"}),
    "stops at a comma": (measured("Describe Paris.", "Paris is a large city with museums,"), {"unfinished"}),
    "stops within its last line": (
        measured(
            "Describe Paris.", "Paris is a large city in France. Its streets and museums draw many millions of visitors every"
        ),
        {"unfinished"},
    ),
    "an open block": (measured("Show me the code.", "Here:\n\n```python\nprint(1)\n"), {"open_code"}),
    "brackets that nothing closes": (
        measured("Show me the code.", "Here:\n\n```js\nfunction f(a) {\n  return [a, 1;\n}\n```\n"),
        {"unbalanced_code"},
    ),
    "no JSON in JSON mode": (measured("Give a colour.", "red", **OBJECT), {"not_json"}),
    "a list in JSON mode": (measured("Give a colour.", '["red"]', **OBJECT), {"not_json"}),
    "JSON in a fence in JSON mode": (measured("Give a colour.", '```json\n{"c": "red"}\n```', **OBJECT), {"wrapped_json"}),
    "not the schema": (measured("A number.", '{"n": "one"}', **SCHEMA), {"schema"}),
    "JSON asked for in words": (measured("Reply with JSON only: a colour.", "The colour is red."), {"not_json"}),
    "a block of broken JSON": (measured("Show a file.", 'It is:\n```json\n{"a": 1,}\n```\nDone.'), {"broken_json"}),
    "too few parts": (measured("Give me five reasons to walk.", "Walking is healthy."), {"parts_missing"}),
    "no table": (measured("Compare tea and coffee in a table.", "Tea is milder than coffee."), {"parts_missing"}),
    "no code": (measured("Write a Python function that adds.", "You add two numbers with plus."), {"parts_missing"}),
    "unknown function": (measured("Find it.", None, message=calls(("lookup", "{}")), **TOOLS), {"unknown_tool"}),
    "arguments that are no JSON": (measured("Find it.", None, message=calls(("find", '{"q": ')), **TOOLS), {"bad_arguments"}),
    "arguments that do not fit": (measured("Find it.", None, message=calls(("find", "{}")), **TOOLS), {"bad_arguments"}),
    "off topic": (
        measured(
            "How do I prune old apple trees in winter?",
            "The stock exchange opened higher on Monday. Banks and insurers gained most, while carmakers lost ground after weak figures "
            "from abroad. Analysts expect calm trading until the central bank meets on Thursday.",
        ),
        {"off_topic"},
    ),
    "in circles": (measured("Describe the sea.", "The sea is wide and the sea is deep and blue. " * 12), {"repetitive"}),
    "other characters": (measured("Describe the sea.", "The sea is \ufffd\ufffd\ufffd wide \x00\x01 and deep."), {"garbled"}),
    "control tokens": (measured("Describe the sea.", "The sea is wide.<|im_end|><|im_start|>"), {"garbled"}),
    "letters at random": (
        measured(
            "Describe the sea.", "Zxqvbnm kjhgfdt q8w7e6r5t wrtpsdfg mnbvcxz !?;:#%& plkjhgfds bvcxznm sdfghjkl trwqpsd kljhgfd."
        ),
        {"garbled"},
    ),
    "another language": (
        measured(
            "What do you think is the best way to learn the piano when you have little time?",
            "Am besten ist es, wenn man jeden Tag eine kurze Zeit übt und nicht zu viel auf einmal will. Das ist mehr wert als ein langer "
            "Abend in der Woche, weil sich die Hände so daran gewöhnen.",
        ),
        {"other_language"},
    ),
}


@pytest.mark.parametrize(
    "text",
    [
        "Paris",
        "42",
        "positive",
        "Winding Waters",
        "Sales rose by 12 percent in the third quarter thanks to strong demand in Asia",
    ],
)
def test_a_line_that_is_all_there_is_need_not_end_like_a_sentence(text: str) -> None:
    assert "unfinished" not in measured("Sum the report up in a line.", text).reasons


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_and_costs(name: str) -> None:
    quality, reasons = FAULTS[name]
    assert set(quality.reasons) >= reasons
    assert quality.total < 1
    if reasons != {"cut_by_limit"} and reasons != {"parts_missing"} and reasons != {"wrapped_json"}:
        assert quality.total < 0.6


def test_every_reason_has_a_case_here_or_in_the_judges_tests() -> None:
    seen = {reason for quality, _ in FAULTS.values() for reason in quality.reasons}
    assert set(REASONS) - seen == {"partly_refused", "judged"}
    assert set(FACTORS) <= set(REASONS)


GOOD: dict[str, Quality] = {
    "a word": measured("What is the capital of France?", "Paris"),
    "a number": measured("What is 6 times 7?", "42"),
    "a list without full stops": measured("What do I need for pancakes?", "- flour\n- milk\n- three eggs and a pinch of salt"),
    "a table": measured("Compare tea and coffee in a table.", "| | tea | coffee |\n|---|---|---|\n| caffeine | less | more |"),
    "code alone": measured("Write a Python function that adds.", "```python\ndef add(a, b):\n    return a + b\n```"),
    "a letter that declines": measured(
        "Write a letter declining an invitation.",
        "Dear Ms Hall,\n\nI'm sorry, but I cannot come on Friday.\n\nKind regards,\nTom",
    ),
    "JSON": measured("A number.", '{"n": 1}', **SCHEMA),
    "wrapped JSON asked for in words": measured("Give it as JSON: a colour.", 'Here you are:\n```json\n{"c": "red"}\n```'),
    "a call": measured("Find it.", None, finish="tool_calls", message=calls(("find", '{"q": "x"}'), ("stop", "")), **TOOLS),
    "a translation": measured(
        "Translate to French: good evening, my dear friends and neighbours.", "Bonsoir, mes chers amis et voisins."
    ),
    "about JSON": measured("What is a JSON object?", "A JSON object is a list of names with values, in curly brackets."),
    "how to do it in JSON": measured(
        "How do I write comments in JSON?", "JSON has no comments: you write them in a field of their own."
    ),
    "about a table": measured(
        "How do I delete a row in an SQL table?", "You delete a row of a table with DELETE and a WHERE clause."
    ),
    "about code": measured("What does this Python function do: def f(x): return 2*x", "The function doubles what it is given."),
    "a step at the end": measured("How do I open my account?", "1. Open the page\n2. Type your name and password\n3. Log in"),
    "a flag at the end": measured(
        "How do I run it without asking?", "There is a flag for that. You can run the command with --yes"
    ),
    "a rule of dashes": measured(
        "Say something about the sea.", f"The sea is deep.\n\n{'-' * 40}\n\nThe sea is wide, too, and blue."
    ),
    "an emoji at the end": measured("Wish Ana a good birthday.", "Happy birthday, Ana, and many more to come 🎉"),
    "a link at the end": measured("Where is Python's documentation?", "You will find all of it at https://docs.python.org/3/"),
    "a refrain of four lines": measured("Sing of rain.", "Rain on the roof\nrain on the lane\nrain on the roof\nrain once again"),
}


@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_held_against_a_good_answer(name: str) -> None:
    assert GOOD[name].reasons == ()
    assert GOOD[name].total > 0.8


def test_one_that_begins_as_a_refusal_and_goes_on_has_half_of_it() -> None:
    more = " ".join([f"Fact {n} about sleep helps you to rest through night {n} better than before." for n in range(20)])
    quality = measured("How do I sleep better?", f"I'm sorry, but I can't give medical advice. Still: {more}")
    assert "partly_refused" in quality.reasons
    assert quality.completeness == 0.5


# -- the sum


def test_the_parts_are_weighted() -> None:
    assert quality_of(Part(0.9), Part(0.8), Part(0.9)) == Quality(0.865, 0.9, 0.8, 0.9)


def test_what_fails_in_one_part_is_not_whole_in_the_others() -> None:
    assert quality_of(Part(0.0, ("refused",)), Part(1.0), Part(1.0)) == Quality(0.3, 0.0, 0.5, 0.5, ("refused",))


def test_a_judge_is_half_of_it() -> None:
    assert with_opinion(Quality(0.9, 1.0, 0.8, 0.9), 0.5) == Quality(0.7, 1.0, 0.8, 0.9, ("judged",), 0.5)


# -- reading


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The house is at the end of the road and it is old.", "en"),
        ("Das Haus ist am Ende der Straße und es ist alt.", "de"),
        ("La maison est au bout de la rue et elle est vieille.", "fr"),
        ("La casa está al final de la calle y es muy vieja.", "es"),
        ("La casa è alla fine della strada ed è molto vecchia, non si può dire altro.", "it"),
        ("A casa fica no fim da rua e não é muito velha, mas é bonita.", "pt"),
        ("Het huis staat aan het einde van de straat en het is oud.", "nl"),
        ("Dom jest na końcu ulicy i nie jest bardzo stary.", "pl"),
        ("Huset ligger i slutet av gatan och det är gammalt.", "sv"),
        ("Ev bu sokağın sonunda ve çok eski bir ev değil ama güzel.", "tr"),
        ("Дом стоит в конце улицы.", "cyrillic"),
        ("Το σπίτι είναι παλιό.", "greek"),
        ("房子在街道的尽头，已经很旧了。", "han"),
        ("家は道の終わりにあります。", "kana"),
        ("집은 길 끝에 있습니다.", "hangul"),
        ("البيت في آخر الشارع.", "arabic"),
        ("42", None),
        ("Paris", None),
        ("", None),
    ],
)
def test_languages(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_a_subject_is_what_is_left_without_the_small_words() -> None:
    assert subject_of("Please explain the tides of the oceans.", asking=True) == ["tide", "ocean"]
    assert subject_of("潮汐现象") == ["潮汐", "汐现", "现象"]
    assert script_of("abc") is None


@pytest.mark.parametrize("text", ["I can help you with that.", "Sorry for the delay, here it is.", "You cannot park here.", ""])
def test_what_is_no_refusal(text: str) -> None:
    assert refusal_in(text) is None


def test_short_questions_take_what_stands_before_them_along() -> None:
    asked = read_asked(
        {
            "messages": [
                {"role": "system", "content": "You know gardens."},
                {"role": "user", "content": "How do I prune old apple trees?"},
                {"role": "assistant", "content": "In late winter."},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "And in summer?"}, {"type": "image_url", "image_url": {"url": "x"}}],
                },
            ]
        }
    )
    assert {"summer", "prune", "apple", "tree"} <= asked.terms


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": None},
        {"messages": [None, {"role": "user"}, {"content": 3}]},
        {"messages": [], "tools": [1, {"function": 2}]},
    ],
)
def test_odd_requests_are_read_as_far_as_they_go(body: dict[str, Any]) -> None:
    assert read_asked(body).terms == frozenset()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"<html>", b'{"choices": []}', b'{"choices": [{"message": null}]}', b'{"choices": 1}']
)
def test_what_is_no_answer_is_not_measured(body: bytes) -> None:
    assert read_answer(body) is None
    assert measure_bodies({}, body) is None


def test_spoken_answers_and_pictures_are_not_measured() -> None:
    parts: list[dict[str, Any]] = [{"audio": {"data": "x"}}, {"images": [{}]}]
    for part in parts:
        assert read_answer(orjson.dumps({"choices": [{"message": {"content": None, **part}}]})) is None


def test_long_texts_are_sampled() -> None:
    long = "a" * 50 + "b" * 50 + "c" * 50
    assert thirds(long, 30) == f"{'a' * 10}\n{'b' * 10}\n{'c' * 10}"
    assert thirds("short", 30) == "short"
    asked = read_asked({"messages": [{"role": "user", "content": f"first {'x' * (MAX_QUESTION + MAX_CONTEXT)} last"}]})
    assert {"first", "last"} <= asked.all_terms


def test_what_is_too_large_is_not_measured() -> None:
    def body(size: int) -> bytes:
        empty = orjson.dumps({"choices": [{"message": {"content": ""}}]})
        return orjson.dumps({"choices": [{"message": {"content": "a" * (size - len(empty))}}]})

    assert read_answer(body(MAX_BODY_BYTES)) is not None
    assert read_answer(body(MAX_BODY_BYTES + 1)) is None


# -- whatever comes

TEXT = st.one_of(
    st.text(max_size=400),
    st.lists(
        st.sampled_from(
            ["I can't help", "```", "```json\n", "{", "}", "\n- ", "the ", ". ", "。", "|", "\x00", "word ", "I'm sorry, "]
        ),
        max_size=60,
    ).map("".join),
)


@pytest.mark.property
@settings(max_examples=100, deadline=None)
@given(
    ask=TEXT,
    text=TEXT,
    finish=st.sampled_from(["stop", "length", "content_filter", "tool_calls", "odd"]),
    more=st.sampled_from([{}, OBJECT, SCHEMA, TOOLS]),
)
def test_any_text_is_measured_within_bounds_and_always_alike(ask: str, text: str, finish: str, more: dict[str, Any]) -> None:
    first = measured(ask, text, finish=finish, **more)
    assert first == measured(ask, text, finish=finish, **more)
    for value in (first.total, first.completeness, first.relevance, first.coherence):
        assert 0 <= value <= 1
    assert set(first.reasons) <= set(REASONS)
    assert first.total == round(0.4 * first.completeness + 0.35 * first.relevance + 0.25 * first.coherence, 3)


@pytest.mark.parametrize(
    "piece",
    [
        "```x\n",
        "`\\",
        "\n",
        " \n",
        "|\n",
        "I'm sorry ",
        "es tut mir leid ",
        "a ",
        "```\n",
        "(",
        "[{",
        "<|",
        "- - ",
        "json ",
        "Ã",
        "1. ",
        "write a python ",
        '"\\',
        "aa bb cc ",
    ],
)
def test_no_pattern_takes_long_over_what_was_made_for_it(piece: str) -> None:
    """Two hundred thousand characters of a pattern's own beginnings; the fuse of the test run is what would tell."""
    text = piece * (200_000 // len(piece))
    assert 0 <= measured(text, text).total <= 1
