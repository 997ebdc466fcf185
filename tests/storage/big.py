"""A ledger of many requests, made by SQL alone: rows as the first release wrote them, which the migration then sums up.

600 combinations, a few of them with much of the traffic, so that an hour of 463 requests has some 230 of them.
"""

import gc
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.core.garbage import thresholds
from proxy.storage import sqlite as storage
from proxy.storage.sqlite import LEDGER

FIRST_MS = 1_799_971_200_000  # midnight, UTC
DAY_MS = 86_400_000
COMBINATIONS = 600

_FILL = """
CREATE TEMP TABLE made AS
WITH RECURSIVE number(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i + 1 < :requests)
SELECT i, :first_ms + i * :span_ms / :requests AS time_ms,
    CAST(600 * ((i * 7919 % 100003) / 100003.0) * ((i * 7919 % 100003) / 100003.0) AS INTEGER) AS combination,
    i * 104729 % 997 AS dice, i * 15485863 % 1009 AS pace FROM number;
INSERT INTO facets (id, key, client, department, model, provider, outcome)
WITH RECURSIVE number(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i < 599)
SELECT i * 4 + o.column1 + 1, i * 4 + o.column1, 'client-' || (i % 50), 'department-' || (i % 9), 'chain-' || (i % 25 % 8),
    'provider-' || (i % 10), o.column2 FROM number, (VALUES (0, 'ok'), (1, 'failed'), (2, 'rejected'), (3, 'client_gone')) AS o;
INSERT INTO request_kinds (id, key, agent, task, chain, stream, config, upstream_model, http_status, trace)
WITH RECURSIVE number(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i < 599)
SELECT i + 1, i, 'agent-' || (i % 20), 'task-' || (i % 60), 'chain-' || (i % 25 % 8), i % 2, 'abcdef012345', 'model-' || (i % 25), 200,
    '[{"target":"provider-0/model-0","attempt":1,"error":"overloaded","ms":3.5,"then":"next"}]' FROM number;
INSERT INTO attempt_kinds (id, key, provider, upstream_model, credential, outcome, usage_source)
WITH RECURSIVE number(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM number WHERE i < 599)
SELECT i + 1, i, 'provider-' || (i % 10), 'model-' || (i % 25), 'key-' || (i % 30), 'ok', 'provider' FROM number UNION ALL
SELECT i + 601, i + 600, 'provider-' || ((i + 1) % 10), 'model-' || (i % 25), 'key-' || (i % 30), 'failed', NULL FROM number;
INSERT INTO request_rows (id, facet, kind, time_ms, attempts, duration_ms, first_token_ms, overhead_ms, ended)
SELECT {ulid}, combination * 4 + CASE WHEN dice < 20 THEN 1 WHEN dice < 30 THEN 3 ELSE 0 END + 1, combination + 1, time_ms,
    1 + (dice % 20 = 0), 200.25 + pace * (1 + combination % 7), iif(dice < 20, NULL, 20.5 + pace), 0.2, 1 FROM made;
INSERT INTO attempt_rows
SELECT {ulid}, 1 + (dice % 20 = 0), combination + 1, time_ms, NULL, 20.5 + pace, 200.25 + pace, 100 + pace, pace % 50, 0, dice, 0, 0, 0,
    iif(dice % 50 = 1, NULL, 1000 * pace), 0, NULL, 2 FROM made;
INSERT INTO attempt_rows
SELECT {ulid}, 1, combination + 601, time_ms, 'overloaded', NULL, 3.5, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, 2 FROM made WHERE dice % 20 = 0;
DROP TABLE made;
"""
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID = " || ".join([f"substr('{_ALPHABET}', (time_ms >> {shift} & 31) + 1, 1)" for shift in range(45, -1, -5)])


# In the first releases every trace was with its kind, so that a request with one of its own was of a kind of its own.
KINDS_THEN = "agent, task, chain, stream, config, upstream_model, http_status, finish_reason, error_code, trace, dropped"
TRACES_AS_THEN = (
    "CREATE TEMP TABLE own AS SELECT id, 1000000 + row_number() OVER () AS kind, trace FROM {now}.request_extras",
    f"""INSERT INTO main.request_kinds (id, key, {KINDS_THEN})
    SELECT o.kind, 'own ' || o.kind, agent, task, chain, stream, config, upstream_model,
        http_status, finish_reason, error_code, o.trace, dropped
    FROM own AS o JOIN {{now}}.request_rows AS r ON r.id = o.id JOIN {{now}}.request_kinds AS k ON k.id = r.kind""",
    "UPDATE main.request_rows SET kind = (SELECT kind FROM own WHERE own.id = request_rows.id) WHERE id IN (SELECT id FROM own)",
)

# what the fifth migration brought, taken back
AS_IN_VERSION_4 = tuple(f"DROP TABLE {table}" for table in ("weekly_sums", "monthly_sums", "summed_days", "failovers_daily"))

# and the fourth
AS_IN_VERSION_3 = (
    *AS_IN_VERSION_4,
    "DROP VIEW requests",
    "DROP VIEW usage_hourly",
    "DROP VIEW usage_daily",
    *[sql.format(now="main") for sql in TRACES_AS_THEN],
    "DROP TABLE request_extras",
    "ALTER TABLE request_kinds DROP COLUMN asked",
    *[
        f"ALTER TABLE {table} DROP COLUMN {name}"
        for table in ("hourly_sums", "daily_sums", "past_daily_sums")
        for name in ("cache_hits", "saved_nusd", "rated", "quality_ppm")
    ],
    "CREATE VIEW requests AS SELECT 1",
    "CREATE VIEW usage_hourly AS SELECT 1",
    "CREATE VIEW usage_daily AS SELECT 1",
)


def first_release(path: Path) -> sqlite3.Connection:
    """A ledger with the tables of the first migration and nothing in them; open."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript((Path(storage.__file__).parent / "migrations" / "0001_ledger.sql").read_text(encoding="utf-8"))
    connection.execute("PRAGMA user_version = 1")
    return connection


def make(data_dir: Path, *, requests: int, days: int) -> None:
    """A ledger of the present release over the days from FIRST_MS."""
    connection = first_release(data_dir / LEDGER)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = MEMORY")
    connection.execute("BEGIN")
    fill = _FILL.replace("{ulid}", f"{_ULID} || printf('%016d', i)")
    for name, value in (("requests", requests), ("first_ms", FIRST_MS), ("span_ms", days * DAY_MS)):
        fill = fill.replace(f":{name}", str(value))
    for statement in fill.split(";\n"):
        connection.execute(statement)
    connection.execute("COMMIT")
    connection.close()
    storage.open_writer(data_dir / LEDGER).close()


@contextmanager
def collecting_as_the_server_does() -> Iterator[None]:
    """What is there stays and is not looked at again: else what a test costs depends on what else was imported."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*thresholds(connections=0))
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def shown(costs_ms: list[float]) -> tuple[str, float]:
    """In words, and the 95th percentile. The first call found nothing that was remembered."""
    ordered = sorted(costs_ms)
    p95 = ordered[len(ordered) * 95 // 100 - 1]
    return f"first {costs_ms[0]:.1f} ms, p50 {ordered[len(ordered) // 2]:.1f} ms, p95 {p95:.1f} ms", p95
