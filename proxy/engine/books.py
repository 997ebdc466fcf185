"""What is written of a request while it runs and when it ends: journal records, cost, metrics, the log line. Synchronous throughout.

A begin record goes before every dispatch, an end record before the last bytes of an answer; the request's own end is part of its last
attempt's, or a record of its own when no attempt was open. Each of them is written once, whatever happens around it.
Records are made by position here, in the order of the classes of `accounting/records.py`, which say what each field is.
"""

from __future__ import annotations

from typing import Any

from proxy.accounting.journal import JournalError
from proxy.accounting.pricing import charge
from proxy.accounting.records import Fields
from proxy.accounting.usage import estimate_input
from proxy.core.errors import ErrorClass, LedgerUnavailable, UpstreamError
from proxy.core.money import NUSD_PER_USD
from proxy.core.target import Chain, Target
from proxy.core.usage import Usage, UsageSource
from proxy.engine.attempt import Attempt
from proxy.engine.exchange import Exchange
from proxy.engine.services import Services
from proxy.routing.choice import RULED_OUT
from proxy.routing.plan import Candidate
from proxy.routing.verdict import RULES, Effect

MAX_TRACE_LINES = 1_000  # of some 0.4 KB where a strategy has figures for each; a record may have 1 MiB
_NOTHING = Usage()
_NOT_FOR_IT = (*RULED_OUT, "refuses ", "would drop ", "cannot carry ", "a context of ")  # what no other moment would change

# what came of a request: (outcome, HTTP status, error code)
Closing = tuple[str, int | None, str | None]
OK: Closing = ("ok", 200, None)
CLIENT_GONE: Closing = ("client_gone", 499, "client_gone")


class Books:
    """One per request. `trace` is the plan's, shared and never changed; `notes` are what the walk adds to it. `extra` is what the choice
    and whatever goes beyond one answer after another have to say, see `RequestEnd.extra`; None for nearly all. `answered` is the attempt
    whose answer is given, where that is not the one that ends the request."""

    __slots__ = (
        "_exchange",
        "_opened",
        "_services",
        "answered",
        "attempts",
        "chain",
        "closed",
        "cost_nusd",
        "extra",
        "first_token_s",
        "notes",
        "outcome",
        "overhead_s",
        "resumed",
        "tokens",
        "trace",
        "unpriced",
        "waited_s",
    )

    def __init__(self, services: Services, exchange: Exchange) -> None:
        self._services = services
        self._exchange = exchange
        self._opened = False
        self.chain: Chain | None = None
        self.trace: list[dict[str, Any]] = []
        self.notes: list[dict[str, Any]] = []
        self.extra: dict[str, Any] | None = None
        self.answered: Attempt | None = None
        self.attempts = 0
        self.closed = False
        self.outcome = "failed"
        self.cost_nusd = 0
        self.unpriced = False
        self.tokens = 0
        self.first_token_s: float | None = None
        self.resumed = False  # the caller has seen a part of an answer that broke off, and another attempt is to bring the rest
        self.overhead_s: float | None = None
        self.waited_s = 0.0  # in attempts that failed and in pauses between them: not the proxy's own time

    def begin(self, candidate: Candidate) -> tuple[str, int]:
        """The id and number of a new attempt, whose begin record is now in the kernel. Raises LedgerUnavailable, unless `ledger.on_full`
        is `serve`."""
        exchange = self._exchange
        n = self.attempts + 1
        attempt_id = f"{exchange.id}-{n}"
        target = candidate.target
        record = (
            "B",
            attempt_id,
            exchange.id,
            n,
            exchange.time_ms if n == 1 else int(self._services.clock.wall() * 1000),
            target.provider.name,
            target.upstream_model,
            candidate.credential.id,
            estimate_input(exchange.request.body_bytes),
            None if self._opened else self._request_open(),
        )
        journal = self._services.journal
        try:
            if not (journal.healthy or journal.serves):
                raise JournalError("the disk is full")
            journal.append_fields(record)
        except JournalError as error:
            if not journal.serves:
                raise LedgerUnavailable(
                    "The ledger cannot be written, so nothing is sent that it could not account for."
                ) from error
            journal.drop()
        self._opened = True  # also when that was dropped: what is said of a request later must not differ from what was summed up
        self.attempts = n
        return attempt_id, n

    def progress(self, attempt: Attempt, output_tokens: int) -> None:
        """What a stream has come to so far, by estimate: all that is known of it should this process be killed."""
        services = self._services
        used = Usage(estimate_input(self._exchange.request.body_bytes), output_tokens, source=UsageSource.ESTIMATED)
        cost_nusd, _ = charge(used, services.prices.rates(attempt.candidate.target, services.clock.wall()))
        services.journal.append_fields(("P", attempt.id, output_tokens, cost_nusd))

    def end(
        self,
        attempt: Attempt,
        outcome: str,
        now: float,
        *,
        usage: Usage | None = None,
        error: UpstreamError | None = None,
        closing: Closing | None = None,
    ) -> None:
        """The one place where an attempt ends. `usage` None: nothing consumed that anybody can know. `closing`: the request ends too."""
        if attempt.settled:
            return
        attempt.settled = True
        if self.resumed and closing is not None:
            closing = _of_resumed(closing)
        services, exchange = self._services, self._exchange
        candidate = attempt.candidate
        target = candidate.target
        content_at, started_at = attempt.content_at, attempt.started_at
        cost_nusd: int | None = 0
        price_source: str | None = None
        used = _NOTHING
        if usage is not None:
            used = usage
            cost_nusd, price_source = charge(usage, services.prices.rates(target, services.clock.wall()))
            if cost_nusd is None:
                self.unpriced = True
            else:
                self.cost_nusd += cost_nusd
        first_token_s = content_at - started_at if content_at is not None else None
        status, error_class, category, message, at_risk = attempt.status, None, None, None, 0
        if error is not None:
            rule = RULES[error.error_class]
            error_class, category, message = error.error_class.value, rule.category, error.message
            if error.status is not None:
                status = error.status
            if usage is None and rule.billed == "risk" and error.sent and not _was_no_answer(error, attempt):
                at_risk = estimate_input(exchange.request.body_bytes)
        tokens = used.input_tokens + used.output_tokens
        self.tokens += tokens
        candidate.deployment.tokens += tokens
        permit = attempt.permit
        if permit.held is not None:
            permit.settle(1 if error is None or _was_sent(error) else 0, tokens, cost_nusd)
        self._append(
            (
                "E",
                attempt.id,
                exchange.id,
                attempt.n,
                exchange.time_ms + int((started_at - exchange.received) * 1000),
                target.provider.name,
                target.upstream_model,
                candidate.credential.id,
                outcome,
                status,
                error_class,
                category,
                message,
                first_token_s * 1000 if first_token_s is not None else None,
                (now - started_at) * 1000,
                used.input_tokens,
                used.cached_input_tokens,
                used.cache_write_tokens,
                used.output_tokens,
                used.reasoning_tokens,
                used.input_audio_tokens,
                used.output_audio_tokens,
                str(used.source) if usage is not None else None,
                cost_nusd,
                price_source,
                at_risk,
                attempt.finish_reason,
                self._request_end(closing, now, attempt) if closing is not None else None,
            )
        )
        services.meter.attempt_ended(
            target.provider.name,
            target.label,
            "ok" if error_class is None else error_class,
            now - started_at,
            first_token_s,
            usage,
            cost_nusd,
            exchange.request.stream,
        )
        standing = candidate.deployment.standing
        if standing is not None:
            standing.note(
                now,
                ok=_says_ok(error),
                stream=attempt.stream is not None,
                first_token_s=first_token_s,
                total_s=now - started_at,
                output_tokens=used.output_tokens - used.reasoning_tokens,
            )
        if closing is None:
            self.waited_s += now - started_at
        else:
            self._close(closing, now, attempt, used)

    def close_unattempted(self, closing: Closing, now: float, used: Usage = _NOTHING) -> None:
        """A request that ends while no attempt is open: refused, nothing left to try, or with an answer that was settled before and
        consumed that."""
        if not self.closed:
            if self.resumed:
                closing = _of_resumed(closing)
            self._append(("R", self._request_open(), self._request_end(closing, now, None)))
            self._close(closing, now, None, used)

    def _append(self, record: Fields) -> None:
        try:
            self._services.journal.append_fields(record)
        except JournalError as error:
            # the answer goes out all the same: the caller has paid for it; the loss is counted, and loud unless it is what was asked for
            if self._services.journal.serves:
                return
            self._services.log.error("ledger_record_lost", request_id=self._exchange.id, fault=str(error))

    def _request_open(self) -> Fields:
        """A RequestOpen."""
        exchange = self._exchange
        tags = exchange.tags
        return (
            exchange.id,
            exchange.time_ms,
            exchange.client.name if exchange.client is not None else None,
            tags.department,
            tags.agent,
            tags.task,
            tags.task_id,
            exchange.request.model,
            self.chain.name if self.chain is not None else None,
            exchange.request.stream,
            exchange.settings.hash,
        )

    def _request_end(self, closing: Closing, now: float, attempt: Attempt | None) -> Fields:
        """A RequestEnd."""
        received = self._exchange.received
        outcome, status, code = closing
        finish_reason = None
        dropped: list[str] = []
        given = self.answered
        if given is not None and given is not attempt and outcome == "ok":
            finish_reason, dropped = given.finish_reason, list(given.outbound.dropped)
            self.first_token_s = now - received  # it was held back until now
            self.overhead_s = now - received - self.waited_s - (now - attempt.started_at if attempt is not None else 0.0)
        elif attempt is not None:
            finish_reason = attempt.finish_reason
            if attempt.outbound.dropped:
                dropped = list(attempt.outbound.dropped)
            content_at = attempt.content_at
            if content_at is not None:
                if not self.resumed:
                    self.first_token_s = content_at - received
                # before the call and after the answer; of a stream the latter is spread over its chunks and not counted
                after_s = now - content_at if attempt.stream is None else 0.0
                self.overhead_s = attempt.dispatched_at - received - self.waited_s + after_s
        return (
            outcome,
            status,
            self.attempts,
            (now - received) * 1000,
            self.first_token_s * 1000 if self.first_token_s is not None else None,
            self.overhead_s * 1000 if self.overhead_s is not None else None,
            finish_reason,
            code,
            self.trace if not self.notes and len(self.trace) <= MAX_TRACE_LINES else self._told_trace(),
            dropped,
            self.extra,
        )

    def _told_trace(self) -> list[dict[str, Any]]:
        """The plan's lines, as many as a record has room for, then the walk's."""
        return [*self.trace[:MAX_TRACE_LINES], *self.notes]

    def _note_fallback(self, chain: Chain, answered: Target) -> None:
        """Counts an answer that came from another target than the first that could have served the request, in the order it asked for,
        and one that is canned."""
        if answered.answer is not None:
            self._services.meter.count("static_answer")
        carried = {note["target"]: note.get("skipped", "") for note in self.notes}
        let_go = [note["target"] for note in self.notes if note.get("error") == "hedged_out"]  # late, which is not unable
        first = {target.name: target for target in chain.targets}
        for entry in self.trace:
            target = first.get(entry["target"])
            if target is answered:
                return
            reason = entry.get("skipped") or carried.get(entry["target"], "")
            if (
                target is None
                or target.disabled
                or target.provider.disabled
                or reason.startswith(_NOT_FOR_IT)
                or target.name in let_go
            ):
                continue
            self._services.meter.fell_back(chain.name)
            return

    def _close(self, closing: Closing, now: float, attempt: Attempt | None, used: Usage) -> None:
        exchange = self._exchange
        self.closed = True
        outcome, status, code = closing
        self.outcome = outcome
        told = attempt if self.answered is None or outcome != "ok" else self.answered
        provider = upstream_model = None
        if told is not None:
            target, chain = told.candidate.target, self.chain
            provider, upstream_model = target.provider.name, target.upstream_model
            if outcome == "ok" and chain is not None and (target is not chain.targets[0] or chain.strategy != "order"):
                self._note_fallback(chain, target)
        elif self.extra is not None and "cache" in self.extra:
            provider, upstream_model = self.extra["cache"].get("provider"), self.extra["cache"].get("model")
        self._services.log.request(
            {
                "request_id": exchange.id,
                "client": exchange.client.name if exchange.client is not None else None,
                "model": exchange.request.model,
                "provider": provider,
                "upstream_model": upstream_model,
                "stream": exchange.request.stream,
                "outcome": outcome,
                "status": status,
                "error": code,
                "attempts": self.attempts,
                "input_tokens": used.input_tokens,
                "output_tokens": used.output_tokens,
                "cost_usd": None if self.unpriced else self.cost_nusd / NUSD_PER_USD,
                "first_token_ms": int(self.first_token_s * 1000) if self.first_token_s is not None else None,
                "duration_ms": int((now - exchange.received) * 1000),
            }
        )


def _of_resumed(closing: Closing) -> Closing:
    """What the caller saw of a request whose answer had begun, whatever the attempt that was to bring the rest failed with."""
    outcome = "failed" if closing[0] == "rejected" else closing[0]
    return closing if outcome in ("ok", "client_gone") else (outcome, 200, "stream_interrupted")


def _was_sent(error: UpstreamError) -> bool:
    """Whether the provider can have seen it. A connection that was closed before the request came has not taken it there."""
    return error.sent and error.error_class is not ErrorClass.STALE_RETRY


def _was_no_answer(error: UpstreamError, attempt: Attempt) -> bool:
    """Bytes that are no HTTP, or a head without end: whoever sends that has not worked on the request."""
    return error.error_class is ErrorClass.MALFORMED and attempt.status is None


def _says_ok(error: UpstreamError | None) -> bool | None:
    """Whether the upstream did well; None where the attempt says nothing of it."""
    if error is None:
        return True
    return None if RULES[error.error_class].effect is Effect.NEUTRAL else False
