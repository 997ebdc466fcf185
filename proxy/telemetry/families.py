"""Every metric that there is: name, kind, labels, meaning. `docs/metrics.md` is held to this table by a test.

Labels come from the configuration and from closed lists, never from what a caller sent. `model` is the model's name where the
configuration lists it, else `other`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proxy.core.errors import ErrorClass, ProxyError

Kind = Literal["counter", "gauge", "histogram", "summary"]

# What comes of a request whose first content was late: the second target answered, the first did after all, the second failed or neither
# had begun when the request ended; or nobody else was asked, for the share of the hour was used up, or for there was nobody to ask.
HEDGE_RESULTS = ("won", "lost", "failed", "capped", "refused")
CACHE_RESULTS = ("hit", "joined", "miss", "refresh")
CACHE_STORES = ("memory", "sqlite")
REQUEST_OUTCOMES = ("ok", "failed", "rejected", "interrupted", "client_gone")
ATTEMPT_OUTCOMES = ("ok", *(member.value for member in ErrorClass))
TOKEN_KINDS = ("input", "cached_input", "cache_write", "output", "reasoning", "input_audio", "output_audio")
CIRCUIT_STATES = {"closed": 0, "half_open": 1, "open": 2}
PROVIDER_STATES = ("healthy", "degraded", "down", "unknown", "disabled")
DELIVERY_RESULTS = ("sent", "failed", "dropped")

# `other`: an event without a name here, which a test of the code rules out
EVENTS = (
    "accept_paused",
    "auth_latched",
    "bad_retry_after",
    "bad_utf8",
    "chain_exhausted",
    "clock_step",
    "config_error",
    "continued",
    "drained_cut",
    "forbidden_fields",
    "internal_error",
    "judge_failed",
    "ledger_corrupt",
    "ledger_record_lost",
    "malformed_event",
    "missing_done",
    "other",
    "probes",
    "recovered",
    "redirect",
    "budget_exhausted",
    "shared_table_full",
    "shed",
    "slow_client",
    "slow_reader",
    "stale_retry",
    "static_answer",
    "usage_suspect",
    "walked_again",
    "warned_failover",
)
# Why a request is refused before any attempt: the error code of the answer, but for these, which are one reason each.
REASONS = {
    "request_too_large": "size",
    "headers_too_large": "size",
    "uri_too_long": "size",
    "bad_http_request": "smuggle",
}


def rejection_reasons() -> frozenset[str]:
    """What stands for the code of every error that a caller can be answered with."""
    found = {"other"}
    classes = [ProxyError]
    while classes:
        cls = classes.pop()
        found.add(REASONS.get(cls.code, cls.code))
        classes += cls.__subclasses__()
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Family:
    """`name` as it is exposed: with `_total` for a counter."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


_TABLE = (
    Family(
        "tollbridge_requests_total", "counter", ("chain", "outcome", "stream"), "Requests that have ended, by what came of them."
    ),
    Family("tollbridge_requests_in_flight", "gauge", (), "Requests that are being served now."),
    Family(
        "tollbridge_request_duration_seconds",
        "histogram",
        ("chain", "stream"),
        "From a request's first byte to its answer's last.",
    ),
    Family(
        "tollbridge_request_first_token_seconds",
        "histogram",
        ("chain",),
        "What callers waited for the first content, failed attempts included.",
    ),
    Family(
        "tollbridge_overhead_seconds",
        "histogram",
        (),
        "The proxy's own share of a request: its time without the waiting for upstreams and clients.",
    ),
    Family(
        "tollbridge_rejected_total",
        "counter",
        ("reason",),
        "Requests refused before any attempt: `size`, `smuggle`, or the error code of the answer.",
    ),
    Family(
        "tollbridge_attempts_total",
        "counter",
        ("provider", "model", "outcome"),
        "Attempts at a provider that have ended: ok, or the error class.",
    ),
    Family("tollbridge_attempt_duration_seconds", "summary", ("provider", "model"), "How long attempts took."),
    Family("tollbridge_first_token_seconds", "histogram", ("provider", "model"), "From an attempt's begin to its first content."),
    Family(
        "tollbridge_failovers_total",
        "counter",
        ("from", "to", "reason"),
        "Moves from one target to the next, by the error class that caused them.",
    ),
    Family(
        "tollbridge_fallbacks_total",
        "counter",
        ("chain",),
        "Requests answered by another target than the first of their chain that could have served them.",
    ),
    Family(
        "tollbridge_hedges_total",
        "counter",
        ("chain", "result"),
        "Requests whose first content was late on a chain that hedges, by what came of it.",
    ),
    Family(
        "tollbridge_tokens_total",
        "counter",
        ("provider", "model", "kind"),
        "Tokens consumed. Kinds other than input and output are parts of those two.",
    ),
    Family(
        "tollbridge_cost_usd_total", "counter", ("provider", "model"), "US dollars that attempts with a known price have cost."
    ),
    Family(
        "tollbridge_unpriced_requests_total",
        "counter",
        ("provider", "model"),
        "Attempts that consumed tokens for which no price is known.",
    ),
    Family(
        "tollbridge_answers_measured_total",
        "counter",
        ("provider", "model", "result"),
        "Whole answers of chains with `quality` that were measured: good, or low for what is below `quality.min`.",
    ),
    Family(
        "tollbridge_answer_quality", "summary", ("provider", "model"), "How good the answers that were measured were, 0 to 1."
    ),
    Family(
        "tollbridge_cache_requests_total",
        "counter",
        ("chain", "result"),
        "Requests whose answer may be kept, by whether it was there.",
    ),
    Family(
        "tollbridge_cache_saved_usd_total",
        "counter",
        ("chain",),
        "US dollars that answers which were given again had cost, where a price was known.",
    ),
    Family("tollbridge_cache_entries", "gauge", ("chain", "store"), "Answers that are kept."),
    Family("tollbridge_cache_bytes", "gauge", ("chain", "store"), "What the answers that are kept take."),
    Family("tollbridge_cache_faults_total", "counter", (), "Times that the file of kept answers could not be read or written."),
    Family(
        "tollbridge_circuit_state", "gauge", ("provider", "model"), "0 closed, 1 half open, 2 open; the worst of several keys."
    ),
    Family(
        "tollbridge_cooldown_seconds",
        "gauge",
        ("provider", "model"),
        "Seconds until a rate limit is over, 0 without one; the longest of several keys.",
    ),
    Family("tollbridge_latched", "gauge", ("provider", "model"), "1 while a bad key or an unknown model keeps a target out."),
    Family(
        "tollbridge_provider_state", "gauge", ("provider", "state"), "1 for the state that a provider is in, 0 for the others."
    ),
    Family("tollbridge_provider_check_seconds", "gauge", ("provider",), "How long a provider's last check took."),
    Family("tollbridge_budget_limit_usd", "gauge", ("scope", "name"), "US dollars that may be spent in the budget's period."),
    Family("tollbridge_budget_spent_usd", "gauge", ("scope", "name"), "US dollars spent in the budget's present period."),
    Family(
        "tollbridge_quota_limit", "gauge", ("provider", "key", "unit", "per"), "Requests or tokens that a quota's period has."
    ),
    Family(
        "tollbridge_quota_used", "gauge", ("provider", "key", "unit", "per"), "Requests or tokens used of the present period's."
    ),
    Family(
        "tollbridge_rate_limit_remaining",
        "gauge",
        ("provider", "unit"),
        "Requests or tokens that may still go to a provider; the least of several keys, models and limits.",
    ),
    Family("tollbridge_alerts_open", "gauge", ("severity",), "Alerts that are raised and not over, acknowledged ones included."),
    Family("tollbridge_alert_deliveries_total", "counter", ("channel", "result"), "Alerts on their way out, by what came of it."),
    Family("tollbridge_events_total", "counter", ("event",), "Oddities worth an alert or a look, see the list below."),
    Family("tollbridge_redactions_total", "counter", (), "Secrets taken out of text on its way to a log, a row or an answer."),
    Family("tollbridge_log_lines_dropped_total", "counter", (), "Log lines that nobody took: standard error was closed or full."),
    Family("tollbridge_ledger_lag_seconds", "gauge", (), "Age of the oldest journal record that the database does not hold yet."),
    Family("tollbridge_ledger_errors_total", "counter", (), "Journal writes that failed."),
    Family(
        "tollbridge_ledger_dropped_total", "counter", (), "Journal records that are lost: the disk took none and memory was full."
    ),
    Family(
        "tollbridge_ledger_sync_errors_total",
        "counter",
        (),
        "Syncs of the journal that failed, or that an answer waited for in vain.",
    ),
    Family("tollbridge_config_last_reload_successful", "gauge", (), "0 while a broken file is being ignored."),
    Family("tollbridge_config_reloads_total", "counter", ("result",), "Configuration reloads: ok or error."),
    Family("tollbridge_config_info", "gauge", ("hash",), "The configuration in force, as in the ledger's rows."),
    Family("tollbridge_build_info", "gauge", ("version", "python"), "What is running."),
    Family(
        "tollbridge_worker_restarts_total",
        "counter",
        ("process",),
        "Processes of the proxy that died and were started again: a worker or the drainer.",
    ),
    Family("tollbridge_connections", "gauge", (), "Callers' connections that are open."),
    Family("tollbridge_connections_limit", "gauge", (), "As many are taken in: four fifths of the file descriptors allowed."),
    Family(
        "tollbridge_requests_room", "gauge", (), "Requests that may run at a time: as configured, fewer while it is overloaded."
    ),
    Family("tollbridge_loop_delay_seconds", "gauge", (), "How late the event loop was when it last looked."),
    Family("tollbridge_draining", "gauge", (), "1 from the signal to stop until the end."),
    Family("tollbridge_tasks", "gauge", (), "Tasks of the event loop. They do not grow with what was served."),
)
FAMILIES: dict[str, Family] = {family.name: family for family in _TABLE}
