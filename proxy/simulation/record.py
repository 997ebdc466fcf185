"""The simulated proxy's journal: nothing is written, and each request becomes a story as soon as all of its attempts have ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from proxy.accounting.journal import Journal
from proxy.accounting.records import Begin, End, Fields, Record, RequestEnd, RequestOpen, positional


class Try(NamedTuple):
    """One attempt. `error`: its error class, None if it went well. `at_s`: when it began, since the scenario did."""

    n: int
    target: str
    at_s: float
    error: str | None
    cost_nusd: int | None
    input_tokens: int
    output_tokens: int


@dataclass(slots=True)
class Story:
    """A request and what came of it. Seconds since the scenario's start; `cost_nusd` of what is priced; `unpriced`: not all of it is."""

    id: str
    at_s: float
    model: str
    chain: str | None
    client: str | None
    stream: bool
    tries: list[Try] = field(default_factory=list)
    outcome: str = "running"
    status: int | None = None
    code: str | None = None
    served_by: str | None = None
    first_token_ms: float | None = None
    duration_ms: float | None = None
    cost_nusd: int = 0
    unpriced: bool = False
    trace: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


class MemoryJournal(Journal):
    """`on_attempt` hears of every attempt as it begins and ends, `on_story` of every request that is over."""

    def __init__(
        self,
        start: float,
        *,
        on_attempt: Callable[[str, str, str], None],
        on_story: Callable[[Story], None],
    ) -> None:
        """`start`: seconds since 1970. `on_attempt` is given provider, credential and upstream model."""
        # what the other one does there is to open files
        self.healthy = True
        self.serves = False
        self.errors = self.dropped = self.sync_errors = self.rescued = 0
        self._start_ms = start * 1000
        self._on_attempt = on_attempt
        self._on_story = on_story
        self._open: dict[str, Story] = {}
        self._running: dict[str, int] = {}  # attempts of a request that have not ended
        self._heard_of: set[str] = set()

    def append(self, record: Record) -> None:
        self.append_fields(positional(record))

    def append_fields(self, record: Fields) -> None:
        match record[0]:
            case "B":
                begin = Begin(*record[1:])
                if begin.request is not None:
                    self._begin(RequestOpen(*begin.request))
                self._running[begin.request_id] = self._running.get(begin.request_id, 0) + 1
                self._on_attempt(begin.provider, begin.credential, begin.upstream_model)
            case "E":
                end = End(*record[1:])
                self._end(end)
                self._on_attempt(end.provider, end.credential, end.upstream_model)
            case "R":
                story = self._begin(RequestOpen(*record[1]))
                _close(story, RequestEnd(*record[2]))
                self._tell(story)
            case _:
                return

    def tick(self) -> None:
        """There is no disk to look at."""

    def close(self) -> None:
        """There is no file to close."""

    def problem(self) -> str | None:
        return None

    @property
    def waiting(self) -> int:
        return 0

    def has_heard_of(self, request_id: str) -> bool:
        """Whether there was any record of a request whose caller has been answered. To be asked once."""
        if request_id not in self._heard_of:
            return False
        self._heard_of.discard(request_id)
        return True

    def _begin(self, request: RequestOpen) -> Story:
        """The story of a request that is heard of for the first time, or the one that is told of it already."""
        at_s = (request.time_ms - self._start_ms) / 1000
        made = Story(request.id, at_s, request.model, request.chain, request.client, request.stream)
        self._heard_of.add(request.id)
        return self._open.setdefault(request.id, made)

    def _end(self, end: End) -> None:
        story = self._open[end.request_id]
        self._running[end.request_id] -= 1
        consumed = end.input_tokens or end.output_tokens
        story.cost_nusd += end.cost_nusd or 0
        story.unpriced |= end.cost_nusd is None and bool(consumed)
        target = f"{end.provider}/{end.upstream_model}"
        at_s = (end.time_ms - self._start_ms) / 1000
        story.tries.append(Try(end.n, target, at_s, end.error_class, end.cost_nusd, end.input_tokens, end.output_tokens))
        if end.end is not None:
            _close(story, RequestEnd(*end.end))
        if story.outcome != "running":
            self._tell(story)

    def _tell(self, story: Story) -> None:
        if self._running.get(story.id, 0):
            return  # an attempt that lost is still to end
        self._open.pop(story.id)
        self._running.pop(story.id, None)
        story.tries.sort()
        if story.outcome == "ok":
            story.served_by = _served_by(story)
        self._on_story(story)


def _close(story: Story, end: RequestEnd) -> None:
    story.outcome = end.outcome
    story.status = end.http_status
    story.code = end.error_code
    story.first_token_ms = end.first_token_ms
    story.duration_ms = end.duration_ms
    story.trace = end.trace
    story.extra = end.extra or {}


def _served_by(story: Story) -> str | None:
    """The target whose answer was given; None where it came from what is kept of another's."""
    if "cache" in story.extra and not story.tries:
        return None
    good = [each for each in story.tries if each.error is None]
    answered = story.extra.get("answered")
    return next((each.target for each in good if each.n == answered), good[-1].target if good else None)
