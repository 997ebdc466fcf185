"""What reports came to for the days that are over: those do not change, or when they do it is marked (`long_sums.mark_changed`).

    a report ── days that are over ── as they came to when it was last asked
             └─ the day that is not ── read

So what is looked at all day, such as the dashboard every five seconds, costs the sums of today. A question is known by what it reads of
days that are over, not by the moment that it ends at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from proxy.storage.usage import Answer

Group = tuple[Any, ...]  # the label's number, the names
Answers = Mapping[Group, Answer]
MAX_GROUPS = 4_000  # of all questions together: some 5 MiB


class Settled:
    """The questions that were asked last, as many as have MAX_GROUPS groups together."""

    def __init__(self) -> None:
        self._found: OrderedDict[Group, tuple[int | None, Answers]] = OrderedDict()
        self._groups = 0

    def get(self, question: Group, changes: int | None) -> Answers | None:
        """None: it was not asked, or days that are over have changed since."""
        found = self._found.get(question)
        if found is None or found[0] != changes:
            return None
        self._found.move_to_end(question)
        return found[1]

    def keep(self, question: Group, changes: int | None, answers: Answers) -> None:
        before = self._found.pop(question, None)
        self._groups += len(answers) + 1 - (0 if before is None else len(before[1]) + 1)
        self._found[question] = changes, answers
        while self._groups > MAX_GROUPS:
            _, (_, dropped) = self._found.popitem(last=False)
            self._groups -= len(dropped) + 1
