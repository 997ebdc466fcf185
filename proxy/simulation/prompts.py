"""What simulated callers ask and simulated upstreams answer: words that mean nothing, of a length that is known.

A prompt names itself (`Simulated request 0.17`: of the first kind of traffic, the eighteenth prompt), so that whoever reads it, in whatever
dialect, can tell how long it is and how long an answer it gets, without being told by anybody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from proxy.simulation.schema import TrafficSection

CHARS_PER_TOKEN = 4  # a word of three letters and a space
_WORDS = """act age air all and any arm art ask bad bay bed big bit box boy bus but buy can car cat cow cry cup cut day did die dog dry ear
eat egg end eye far few fit fly for fun gas get had has hat her him his hot how ice its job key kid law lay leg let lie lot low man map
may men mix new nor not now odd off oil old one our out own pay per put ran raw red rid row run sad sat saw say sea see set she sit six
sky son sun tax ten the tie too top try two use was way who why win yes yet you""".split()
_MARK = re.compile(rb"Simulated request ([0-9]{1,6})\.([0-9]{1,9})\b")
_TEXT = " ".join(Random(1).choices(_WORDS, k=20_000)) + " "


class Prompt(NamedTuple):
    """Which one, and how many tokens it and its answer have."""

    kind: int
    number: int
    input_tokens: int
    output_tokens: int

    @property
    def text(self) -> str:
        head = f"Simulated request {self.kind}.{self.number}: "
        return head + words(self.input_tokens - len(head) // CHARS_PER_TOKEN, self.number)


class Prompts:
    """Those of one scenario. What is not known by its name is taken to be as long as it is, with an answer of 100 tokens."""

    def __init__(self, traffic: Sequence[TrafficSection], seed: int) -> None:
        self._traffic = traffic
        self._seed = seed

    def make(self, kind: int, number: int) -> Prompt:
        """The same one each time."""
        of = self._traffic[kind]
        if not of.spread:
            return Prompt(kind, number, of.input, of.output)
        chance = Random(f"{self._seed} prompt {kind}.{number}")
        input_tokens, output_tokens = (
            max(1, round(tokens * (1 + of.spread * (2 * chance.random() - 1)))) for tokens in (of.input, of.output)
        )
        return Prompt(kind, number, input_tokens, output_tokens)

    def found_in(self, body: bytes) -> Prompt:
        """The one that a request carries."""
        found = _MARK.search(body)
        if found is not None and (kind := int(found[1])) < len(self._traffic):
            return self.make(kind, int(found[2]))
        return Prompt(-1, 0, max(1, len(body) // CHARS_PER_TOKEN), 100)


def words(tokens: int, start: int = 0) -> str:
    """So many of them, begun at another place for each `start`."""
    length = max(0, tokens) * CHARS_PER_TOKEN
    at = start * 7 * CHARS_PER_TOKEN % len(_TEXT)
    found = _TEXT[at : at + length]
    if len(found) < length:
        found += (_TEXT * (length // len(_TEXT) + 1))[: length - len(found)]
    return found.rstrip()
