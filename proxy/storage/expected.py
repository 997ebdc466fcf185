"""What the sums of the hours have to be, from the rows, by plain SQL: the table `expected` of one connection.

Rows are added up by the numbers of what they have in common first, and only what that comes to is told by names: to sort a row by nine
names costs more than to read it.
"""

from __future__ import annotations

import sqlite3

from proxy.storage.extras import PPM
from proxy.storage.rebuild import HOUR_MS
from proxy.storage.slices import ATTEMPT_SUMS, DIMENSIONS, REQUEST_SUMS, SUMS

_OUTCOMES = ("ok", "rejected", "interrupted", "client_gone")  # what is none of these counts as failed
_REQUESTS = """
SELECT hour, facet, kind, answering, count(*) AS requests, sum(made > 1) AS requests_failed_over,
    sum(coalesce(CAST(duration_ms * 1000 AS INTEGER), 0)) AS duration_us,
    sum(coalesce(CAST(first_token_ms * 1000 AS INTEGER), 0)) AS first_token_us, count(first_token_ms) AS first_tokens,
    sum(coalesce(cache = 'hit', 0)) AS cache_hits, sum(coalesce(saved_nusd, 0)) AS saved_nusd, count(quality) AS rated,
    sum(coalesce(CAST(quality * {ppm} AS INTEGER), 0)) AS quality_ppm
FROM (
    SELECT r.time_ms / {hour_ms} AS hour, facet, kind, attempts - coalesce(hedged, 0) AS made, duration_ms, first_token_ms, cache,
        saved_nusd, quality, iif(answered IS NULL,
            (SELECT a.kind FROM attempt_rows AS a WHERE a.request_id = r.id ORDER BY a.n DESC LIMIT 1),
            (SELECT a.kind FROM attempt_rows AS a WHERE a.request_id = r.id AND a.n = answered)) AS answering
    FROM request_rows AS r LEFT JOIN request_extras AS x ON x.id = r.id WHERE ended = 1 AND r.time_ms >= :from_ms
) GROUP BY hour, facet, kind, answering"""
_ATTEMPTS = """
SELECT a.time_ms / {hour_ms} AS hour, facet, r.kind AS kind, a.kind AS made, count(*) AS attempts,
    sum(coalesce(CAST(a.duration_ms * 1000 AS INTEGER), 0)) AS attempt_duration_us, {tokens},
    sum(cost_nusd IS NULL) AS without_cost, sum(coalesce(cost_nusd, 0)) AS cost_nusd
FROM attempt_rows AS a LEFT JOIN request_rows AS r ON r.id = a.request_id WHERE rank = 2 AND a.time_ms >= :from_ms
GROUP BY hour, facet, r.kind, a.kind"""
_TOKENS = [name for name in ATTEMPT_SUMS if name.endswith("_tokens")]

_OF_REQUESTS = {
    "requests_failed": f"iif(f.outcome NOT IN {_OUTCOMES}, requests, 0)",
    **{f"requests_{outcome}": f"iif(f.outcome = '{outcome}', requests, 0)" for outcome in _OUTCOMES},
}
_OF_ATTEMPTS = {
    "attempts_ok": "iif(m.outcome = 'ok', attempts, 0)",
    "unpriced": "iif(usage_source IS NULL, 0, without_cost)",
    "estimated": "iif(usage_source <> 'provider', attempts, 0)",
}
_MAKE = f"""
CREATE TEMP TABLE expected AS
SELECT hour, {", ".join(DIMENSIONS)}, {", ".join([f"sum({name}) AS {name}" for name in SUMS])}
FROM (
    SELECT hour, coalesce(f.provider, '') AS provider, coalesce(k.upstream_model, '') AS upstream_model,
        coalesce(chain, '') AS chain, coalesce(client, '') AS client, coalesce(department, '') AS department,
        coalesce(agent, '') AS agent, coalesce(task, '') AS task, coalesce(a.credential, '') AS key, coalesce(stream, 0) AS stream,
        {", ".join([f"{_OF_REQUESTS.get(name, name)} AS {name}" for name in REQUEST_SUMS])},
        {", ".join([f"0 AS {name}" for name in ATTEMPT_SUMS])}
    FROM ({_REQUESTS.format(hour_ms=HOUR_MS, ppm=PPM)}) AS r LEFT JOIN facets AS f ON f.id = r.facet
    LEFT JOIN request_kinds AS k ON k.id = r.kind LEFT JOIN attempt_kinds AS a ON a.id = r.answering
    UNION ALL
    SELECT hour, m.provider, m.upstream_model, coalesce(chain, ''), coalesce(client, ''), coalesce(department, ''),
        coalesce(agent, ''), coalesce(task, ''), coalesce(m.credential, ''), coalesce(stream, 0),
        {", ".join(["0" for _ in REQUEST_SUMS])}, {", ".join([_OF_ATTEMPTS.get(name, name) for name in ATTEMPT_SUMS])}
    FROM ({_ATTEMPTS.format(hour_ms=HOUR_MS, tokens=", ".join([f"sum({name}) AS {name}" for name in _TOKENS]))}) AS a
    LEFT JOIN attempt_kinds AS m ON m.id = a.made LEFT JOIN facets AS f ON f.id = a.facet LEFT JOIN request_kinds AS k ON k.id = a.kind
) GROUP BY hour, {", ".join(DIMENSIONS)}"""  # noqa: S608 - this module's own words


def make_expected(connection: sqlite3.Connection, from_ms: int) -> None:
    """Of the rows from then on, for as long as the connection lasts."""
    connection.execute(_MAKE, {"from_ms": from_ms})
