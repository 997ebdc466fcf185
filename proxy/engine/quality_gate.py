"""Measures the whole answers of a chain with `quality:` before they are handed on, and has the next target asked where one is low.

    answer ──measured──> good enough, or nobody left to ask ──────────────────────────> given
                 '──low──> settled and held ──next target──> answer ──measured──> the better of both is given, the earlier if equal
                                              '──all fail──────────────────────> the held one is given

Two answers at most: a request costs at most twice what it would. Both are billed, and the trace says what each measured. A judge, where
there is one, is asked about answers that have no plain fault; whatever becomes of that call, the answer is given.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from proxy.config.settings import Settings
from proxy.core.chat import ChatRequest
from proxy.core.target import QualitySettings
from proxy.core.usage import Usage
from proxy.engine.attempt import Attempt
from proxy.engine.books import Books
from proxy.engine.control import Control
from proxy.engine.exchange import Exchange
from proxy.engine.onward import Onward
from proxy.engine.services import Services
from proxy.quality.verdict import Quality, with_opinion
from proxy.routing.plan import Candidate

JUDGED_FROM = 0.5  # completeness below which an answer has a plain fault, which no judge need see


@dataclass(frozen=True, slots=True)
class Given:
    """An answer that is whole and settled, or about to be. `quality` None: nothing can be said of it."""

    attempt: Attempt
    usage: Usage
    body: bytes
    quality: Quality | None


def is_gated(request: ChatRequest) -> bool:
    return request.kind == "chat" and not request.stream


def get_ready(settings: Settings) -> None:
    """What measures is fifty milliseconds of regular expressions to load: at the start, and only where a chain wants it."""
    if settings.gates():
        import proxy.quality.measure  # noqa: F401 - it is there from now on


class QualityGate:
    """One per request that is gated. `held`: the answer that was too low, None while there is none. `ahead` is told of each attempt, so
    that it is known who could be asked next; `following` is its place once an answer is held."""

    __slots__ = ("_ahead", "_books", "_control", "_exchange", "_onward", "_services", "_settings", "following", "held")

    def __init__(
        self,
        settings: QualitySettings,
        services: Services,
        exchange: Exchange,
        books: Books,
        control: Control,
        onward: Onward,
    ) -> None:
        self._settings = settings
        self._services = services
        self._exchange = exchange
        self._books = books
        self._control = control
        self._onward = onward
        self._ahead: tuple[list[Candidate], int] = ([], 0)
        self.held: Given | None = None
        self.following = 0

    def ahead(self, candidates: list[Candidate], position: int) -> None:
        self._ahead = (candidates, position)

    async def weigh(self, attempt: Attempt, usage: Usage, body: bytes) -> Given | None:
        """The answer to give. None: this one is to be settled, it is held, and the candidate at `following` is to be asked."""
        if attempt.candidate.target.answer is not None:  # a canned answer, which is better than nothing only
            return self._chosen(self.held or Given(attempt, usage, body, None))
        quality = await self._measured(body)
        answer = Given(attempt, usage, body, quality)
        if quality is not None:
            self._tell(attempt, quality)
        held = self.held
        if held is None:
            following = self._next() if quality is not None and quality.total < self._settings.min else None
            if following is None:
                self._note(answer, "answer")
                return self._chosen(answer)
            self.held, self.following = answer, following
            self._note(answer, "next")
            return None
        is_better = quality is None or held.quality is None or quality.total > held.quality.total
        self._note(answer, "answer" if is_better else "earlier")
        if is_better:
            self.held = None
            return self._chosen(answer)
        return self._chosen(held)

    def fall_back(self) -> Given | None:
        """The held answer, because no other came. None where none is held."""
        return None if self.held is None else self._chosen(self.held)

    # -- steps

    def _next(self) -> int | None:
        """None too when the caller has left meanwhile, for nobody would read it, and where there is but a canned answer."""
        candidates, position = self._ahead
        following = None if self._control.gone else self._onward.following(candidates, position, None)
        return None if following is None or candidates[following].target.answer is not None else following

    def _chosen(self, answer: Given) -> Given:
        books = self._books
        said: dict[str, Any] = {}
        if answer.quality is not None:
            said["quality"] = answer.quality.total
        if answer.attempt.n != books.attempts:
            said["answered"] = answer.attempt.n
        if said:
            books.extra = (books.extra or {}) | said
        return answer

    async def _measured(self, body: bytes) -> Quality | None:
        """None: it is not of text, or the caller or a drain did not wait for it."""
        from proxy.quality.measure import QUICK_BYTES, measure_bodies  # see `get_ready`

        request, services = self._exchange.request, self._services
        try:
            if request.body_bytes + len(body) <= QUICK_BYTES:
                measured = measure_bodies(request.body, body)
            else:
                loop = asyncio.get_running_loop()
                measured = await loop.run_in_executor(services.executor, measure_bodies, request.body, body)
            if measured is None or services.judge is None or self._settings.judge is None or measured.completeness < JUDGED_FROM:
                return measured
            began = services.clock.monotonic()
            try:
                opinion = await services.judge.opinion(self._exchange, self._books.chain, body)
            finally:
                self._books.waited_s += services.clock.monotonic() - began
        except asyncio.CancelledError:
            if self._control.cause() is None:
                raise
            return None
        except Exception as fault:  # noqa: BLE001 - the answer is whole and paid for: it must not be lost over its measure
            services.log.error("measuring_failed", request_id=self._exchange.id, fault=repr(fault)[:500])
            return None
        return measured if opinion is None else with_opinion(measured, opinion)

    def _tell(self, attempt: Attempt, quality: Quality) -> None:
        deployment, target = attempt.candidate.deployment, attempt.candidate.target
        if deployment.standing is not None:
            deployment.standing.note_quality(quality.total)
        self._services.meter.answer_measured(
            target.provider.name, target.label, quality.total, low=quality.total < self._settings.min
        )

    def _note(self, answer: Given, then: str) -> None:
        if answer.quality is None:
            return
        self._books.notes.append(
            {
                "attempt": answer.attempt.n,
                "target": answer.attempt.candidate.target.name,
                "quality": answer.quality.total,
                "parts": answer.quality.as_dict(),
                "then": then,
            }
        )
