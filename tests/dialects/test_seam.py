"""The seam between a text that broke off and the one that goes on with it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.seam import ANCHOR_CHARS, ANCHOR_WORDS, Seam, anchor_of

pytestmark = pytest.mark.unit

GOLDENS = {
    "prose": "The bridge was built in 1894, over the river Aare. It is very, very old; ha ha ha! New York, New York. That that is, is.",
    "code": "```python\ndef walk(tree):\n    for node in tree:\n        for leaf in node:\n            yield leaf\n\n\n    return 1\n```",
    "table": "| a | b |\n| --- | --- |\n| --- | --- |\n| 1 | 1 |\n| 1 | 1 |\n----------\n----------\n",
    "german": "Die Brücke über die Aare wurde 1894 gebaut. Größe: 12 m; Maße: unbekannt. Die die Brücke bauten, sind tot.",
    "chinese": "这座桥建于一八九四年，横跨阿勒河。人人都说好，天天都有人走过。桥桥不同。",
    "song": "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
    "inside": "bonbon, banana, haha, Mississippi, cancan, 1111, 1212, aaaa",
}
TOKENS = re.compile(r"\s?\w{1,5}|\s?[^\w\s]|\s+")  # near enough to what models make of a text


def tokens_of(text: str) -> list[str]:
    found = TOKENS.findall(text)
    assert "".join(found) == text
    return found


def joined(so_far: str, pieces: list[str], *, exact: bool, trimmed: bool = False, echoes: bool = False) -> str:
    seam = Seam(so_far, exact=exact, trimmed=trimmed, echoes=echoes)
    told = "".join([seam.feed(piece) for piece in pieces]) + seam.close()
    assert seam.decided
    return so_far + told


@pytest.mark.parametrize("golden", GOLDENS.values(), ids=GOLDENS.keys())
def test_a_model_that_goes_on_to_the_letter_loses_and_doubles_nothing_wherever_it_was_cut(golden: str) -> None:
    tokens = tokens_of(golden)
    for cut in range(len(tokens) + 1):
        so_far = "".join(tokens[:cut])
        assert joined(so_far, tokens[cut:], exact=True) == golden
        assert joined(so_far, [golden], exact=True, echoes=True) == golden or cut == 0


@pytest.mark.parametrize("golden", GOLDENS.values(), ids=GOLDENS.keys())
def test_white_space_that_was_not_shown_is_not_written_twice(golden: str) -> None:
    tokens = tokens_of(golden)
    for cut in range(len(tokens) + 1):
        so_far = "".join(tokens[:cut])
        rest = golden[len(so_far.rstrip()) :]  # which goes on from where it was shown the end
        assert joined(so_far, tokens_of(rest), exact=True, trimmed=so_far != so_far.rstrip()) == golden


@pytest.mark.parametrize("golden", GOLDENS.values(), ids=GOLDENS.keys())
def test_a_model_that_repeats_the_last_words_as_it_was_asked_to_says_them_once(golden: str) -> None:
    tokens = tokens_of(golden)
    for cut in range(1, len(tokens) + 1):
        so_far = "".join(tokens[:cut])
        anchor = anchor_of(so_far)
        if anchor:
            rest = golden[len(so_far.rstrip()) - len(anchor) :]
            assert rest.startswith(anchor)
            assert joined(so_far, tokens_of(rest), exact=False) == golden


@pytest.mark.parametrize(
    ("so_far", "goes_on", "whole"),
    [
        pytest.param("The quick brown fox jum", "ps over", "The quick brown fox jumps over", id="inside a word"),
        pytest.param("The quick brown", " fox", "The quick brown fox", id="a space of its own"),
        pytest.param("The quick ", "brown fox", "The quick brown fox", id="a space of the first one's"),
        pytest.param("It is very", " very good", "It is very very good", id="a word that may be meant twice"),
        pytest.param("ban", "ana", "banana", id="letters that look like a repetition"),
        pytest.param("The quick brown", "quick brown fox", "The quick brown fox", id="two words again, which would run together"),
        pytest.param(
            "The quick brown fox",
            " quick brown fox jumps",
            "The quick brown fox jumps",
            id="three words again, set off by a space",
        ),
        pytest.param("a b c", " a b c d", "a b c a b c d", id="too little to be sure"),
        pytest.param("ha ha ha ha ha", " ha ha ha", "ha ha ha ha ha ha ha ha", id="said over and over"),
        pytest.param(
            "One line of it. Another line of it.",
            "One line of it. Another line of it. A third.",
            "One line of it. Another line of it. A third.",
            id="everything again",
        ),
        pytest.param("", "Hello", "Hello", id="nothing before"),
        pytest.param("Hello", "", "Hello", id="nothing more"),
        pytest.param("Hello", "   ", "Hello   ", id="nothing but space"),
    ],
)
def test_seams_of_a_model_that_is_exact(so_far: str, goes_on: str, whole: str) -> None:
    assert joined(so_far, [goes_on], exact=True) == whole
    assert joined(so_far, list(goes_on), exact=True) == whole


@pytest.mark.parametrize(
    ("so_far", "goes_on", "whole"),
    [
        pytest.param("The quick brown", "fox jumps", "The quick brown fox jumps", id="a new message has no space in front"),
        pytest.param("It ended.", "Then it began.", "It ended. Then it began.", id="after a sentence"),
        pytest.param("It ended.\n\n", "Then it began.", "It ended.\n\nThen it began.", id="after a paragraph"),
        pytest.param("It ended.\n", "\n\nThen it began.", "It ended.\n\nThen it began.", id="space that is shared"),
        pytest.param("The quick brow", "brown fox", "The quick brown fox", id="the word that was cut, from its beginning"),
        pytest.param("The quick brown", "brown fox", "The quick brown fox", id="the last word"),
        pytest.param("The quick brown", "The quick brown\nfox", "The quick brown\nfox", id="all of it"),
        pytest.param("The quick brown ", "  The quick brown fox", "The quick brown fox", id="space before all of it"),
        pytest.param("这座桥建于", "一八九四年", "这座桥建于一八九四年", id="no space where none is written"),
        pytest.param("这座桥建于一八", "桥建于一八九四年", "这座桥建于一八九四年", id="signs again"),
        pytest.param("f(x", ")", "f(x)", id="what closes is not set off"),
    ],
)
def test_seams_of_a_model_that_begins_a_new_message(so_far: str, goes_on: str, whole: str) -> None:
    assert joined(so_far, [goes_on], exact=False) == whole
    assert joined(so_far, list(goes_on), exact=False) == whole


def test_the_anchor_begins_with_a_word_and_is_short() -> None:
    text = "abcdefghij " * 40 + "The end of it is here, at last; so be it "
    anchor = anchor_of(text)
    assert anchor == "it is here, at last; so be it"
    assert len(anchor_of("x" * 500)) <= ANCHOR_CHARS
    assert len(anchor.split()) == ANCHOR_WORDS
    assert anchor_of("…") == anchor_of(" \n") == anchor_of("") == ""


@pytest.mark.property
@given(st.text("ab c.\n漢", max_size=30), st.text("ab c.\n漢", max_size=30), st.booleans(), st.booleans(), st.data())
def test_the_pieces_in_which_it_comes_make_no_difference(
    so_far: str, goes_on: str, exact: bool, trimmed: bool, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(goes_on)), max_size=5)))
    pieces = [goes_on[a:b] for a, b in zip([0, *cuts], [*cuts, len(goes_on)], strict=True)]
    assert joined(so_far, pieces, exact=exact, trimmed=trimmed) == joined(so_far, [goes_on], exact=exact, trimmed=trimmed)


@pytest.mark.property
@given(st.text(max_size=40), st.text(max_size=40), st.booleans())
def test_nothing_but_a_repetition_and_white_space_is_ever_left_out(so_far: str, goes_on: str, exact: bool) -> None:
    told = joined(so_far, [goes_on], exact=exact)[len(so_far) :].lstrip()
    assert goes_on.endswith(told) or goes_on.rstrip().endswith(told.rstrip())
