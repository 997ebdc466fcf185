"""Whether the ledger adds up: file, sums, rows and journal held against each other, by plain SQL and over one moment of the file.

    integrity    SQLite's own check of the file
    sums         hours against rows, in each slice; days against hours, weeks and months against days; failovers against traces
    segments     how far each was read against what is in it
    journal      every record of the segments that are still kept against the rows

Reads only, beside a running server as well. What was forgotten (`docs/ledger.md`) is not missed: hours count from the first in which
every row is there. Names that share `other` in the sums are compared together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from proxy.accounting.journal import HEAD, SEGMENT_SUFFIX, split_frames
from proxy.accounting.records import LAYOUT, Begin, End, Fields, Rejected, RequestEnd
from proxy.storage.expected import make_expected
from proxy.storage.long_sums import LONG
from proxy.storage.rebuild import HOUR_MS, first_whole_hour
from proxy.storage.segments import READ_BYTES
from proxy.storage.slices import SLICES, SUMS
from proxy.storage.sqlite import LEDGER, first_id, is_corrupt, reader_uri, version
from proxy.storage.sums import OTHER, WIDTHS

MAX_TOLD = 100
_RECORDS = READ_BYTES // HEAD.size  # all that one read has

_FAILED_OVER = """
SELECT r.time_ms / 3600000, coalesce(r.chain, ''), json_extract(e.value, '$.target'),
    coalesce((SELECT json_extract(n.value, '$.target') FROM json_each(r.trace) AS n
        WHERE json_extract(n.value, '$.attempt') = json_extract(e.value, '$.attempt') + 1 AND json_extract(n.value, '$.then') IS NOT NULL
        LIMIT 1), (SELECT a.provider || '/' || a.upstream_model FROM attempts AS a
        WHERE a.request_id = r.id AND a.n = json_extract(e.value, '$.attempt') + 1)) AS to_target,
    coalesce(json_extract(e.value, '$.error'), iif(json_extract(e.value, '$.quality') IS NULL, '', 'quality')), count(*)
FROM requests AS r CROSS JOIN json_each(r.trace) AS e
WHERE r.ended = 1 AND r.attempts > 1 AND json_extract(e.value, '$.then') = 'next' AND json_extract(e.value, '$.attempt') < r.attempts
    AND r.time_ms >= :from_ms
GROUP BY 1, 2, 3, 4, 5 HAVING to_target IS NOT NULL"""
_DAYS_OF_FAILOVERS = """
SELECT day, chain, from_target, to_target, reason, sum(count) FROM (
    SELECT hour / 24 AS day, chain, from_target, to_target, reason, count FROM failovers_hourly UNION ALL
    SELECT day, chain, from_target, to_target, reason, -count FROM failovers_daily)
GROUP BY 1, 2, 3, 4, 5"""
_ATTEMPTS = """
SELECT request_id, n, rank, outcome, input_tokens, output_tokens, cost_nusd, EXISTS (
    SELECT 1 FROM repriced AS p WHERE p.request_id = a.request_id AND p.n = a.n)
FROM attempts AS a WHERE request_id IN (SELECT value FROM json_each(?))"""
_REQUESTS = "SELECT id, ended, outcome FROM requests WHERE id IN (SELECT value FROM json_each(?))"

_ID, _REQUEST_ID, _N = (LAYOUT[Begin].index(name) for name in ("attempt_id", "request_id", "n"))
_OUTCOME, _INPUT, _OUTPUT, _COST, _CLOSE = (
    LAYOUT[End].index(name) for name in ("outcome", "input_tokens", "output_tokens", "cost_nusd", "end")
)
_END_SIZE, _BEGIN_SIZE = len(LAYOUT[End]), len(LAYOUT[Begin])
_OPENED, _CLOSED = (LAYOUT[Rejected].index(name) for name in ("request", "end"))
_CLOSING = LAYOUT[RequestEnd].index("outcome")


class NoLedger(Exception):
    """There is none, or it is not of this release; the message says so."""


@dataclass(frozen=True, slots=True)
class Difference:
    """`where` names the hour, the segment or the row."""

    check: str
    where: str
    message: str


@dataclass(slots=True)
class Findings:
    """`compared`: check -> how many things were looked at. Of the differences at most MAX_TOLD are kept, and all counted."""

    compared: dict[str, int] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    differing: int = 0

    def look(self, check: str, count: int = 1) -> None:
        self.compared[check] = self.compared.get(check, 0) + count

    def differs(self, check: str, where: str, message: str) -> None:
        self.differing += 1
        if len(self.differences) < MAX_TOLD:
            self.differences.append(Difference(check, where, message))


def verify(data_dir: Path) -> Findings:
    """Raises NoLedger, and sqlite3.Error where the file cannot be read for another reason than its being damaged."""
    path = data_dir / LEDGER
    if not path.is_file():
        raise NoLedger(f"there is no {LEDGER} in {data_dir}")
    found = Findings()
    try:
        connection = sqlite3.connect(reader_uri(path), uri=True, isolation_level=None)
        try:
            _verify(connection, data_dir, found)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if not is_corrupt(error):
            raise
        found.look("integrity")
        found.differs("integrity", LEDGER, str(error))
    return found


def _verify(connection: sqlite3.Connection, data_dir: Path, found: Findings) -> None:
    connection.execute("PRAGMA temp_store = FILE")
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    if number != version():
        raise NoLedger(
            f"the ledger is at version {number} and this release at {version()}: start the server once, or use that release"
        )
    connection.execute("BEGIN")
    found.look("integrity")
    for (line,) in connection.execute(f"PRAGMA integrity_check({MAX_TOLD})"):
        if line != "ok":
            found.differs("integrity", LEDGER, line)
    hour = first_whole_hour(connection)
    make_expected(connection, hour * HOUR_MS)
    for slice_number in range(len(SLICES)):
        _verify_hours(connection, slice_number, hour, found)
        _verify_days(connection, slice_number, found)
    _verify_failovers(connection, hour, found)
    _Journal(connection, data_dir / "journal", found).verify()


def _verify_hours(connection: sqlite3.Connection, number: int, hour: int, found: Findings) -> None:
    """Exactly by what cannot be `other`; by everything in hours where nothing is."""
    columns = SLICES[number]
    fixed = tuple(name for name in columns if name not in WIDTHS)
    folded = " OR ".join([f"t.{name} = '{OTHER}'" for name in columns if name in WIDTHS])
    _compare_hours(connection, number, hour, fixed, "", found)
    if folded:
        wanted = (
            f"AND hour NOT IN (SELECT u.hour FROM hourly_sums AS u JOIN usage_tags AS t ON t.id = u.tag WHERE u.slice = {number} "  # noqa: S608
            f"AND u.hour >= :hour AND ({folded}))"
        )
        _compare_hours(connection, number, hour, columns, wanted, found)


def _compare_hours(
    connection: sqlite3.Connection, number: int, hour: int, columns: Sequence[str], wanted: str, found: Findings
) -> None:
    by = "".join([f", {name}" for name in columns])
    by_tag = "".join([f", t.{name}" for name in columns])
    union = (
        f"SELECT hour{by}, {', '.join(SUMS)} FROM expected WHERE hour >= :hour {wanted} UNION ALL "  # noqa: S608
        f"SELECT u.hour{by_tag}, {', '.join(f'-u.{name}' for name in SUMS)} FROM hourly_sums AS u "
        f"JOIN usage_tags AS t ON t.id = u.tag WHERE u.slice = {number} AND u.hour >= :hour {wanted}"
    )
    (compared,) = connection.execute("SELECT count(*) FROM hourly_sums WHERE slice = ? AND hour >= ?", (number, hour)).fetchone()
    found.look("sums", compared)
    _tell(connection, union, f"hour{by}", {"hour": hour}, f"slice {number}, hour", "rows less sums", found)


def _verify_days(connection: sqlite3.Connection, number: int, found: Findings) -> None:
    """Where hours are kept, which go with their day."""
    (first,) = connection.execute("SELECT min(hour) / 24 FROM hourly_sums WHERE slice = ?", (number,)).fetchone()
    if first is None:
        return
    tables = ["SELECT day, tag, {} FROM daily_sums WHERE slice = :slice AND day >= :first"]
    if not number:
        tables.append("SELECT day, tag, {} FROM past_daily_sums WHERE day >= :first")
    negative = ", ".join(f"-{name}" for name in SUMS)
    union = " UNION ALL ".join(
        [
            f"SELECT hour / 24 AS day, tag, {', '.join(SUMS)} FROM hourly_sums WHERE slice = :slice",  # noqa: S608
            *(table.format(negative) for table in tables),
        ]
    )
    (compared,) = connection.execute("SELECT count(*) FROM daily_sums WHERE slice = ?", (number,)).fetchone()
    found.look("sums", compared)
    _tell(connection, union, "day, tag", {"slice": number, "first": first}, f"slice {number}, day", "hours less days", found)
    _verify_long(connection, number, tables, found)


def _verify_long(connection: sqlite3.Connection, number: int, days: Sequence[str], found: Findings) -> None:
    """Weeks and months from the first on whose days are all kept, with the days that are said to be in them."""
    summed = connection.execute("SELECT from_day, until_day FROM summed_days WHERE slice = ?", (number,)).fetchone()
    if summed is None:
        return
    for long in LONG:
        first = long.of(summed[0] - 1) + 1
        values = {"slice": number, "first": long.begin_of(first), "until": summed[1], "unit": first}
        of_days = " UNION ALL ".join([f"{table.format(', '.join(SUMS))} AND day < :until" for table in days])
        union = (
            f"SELECT unit_of_{long.unit}(day) AS unit, tag, {', '.join(SUMS)} FROM ({of_days}) UNION ALL "  # noqa: S608
            f"SELECT {long.unit}, tag, {', '.join([f'-{name}' for name in SUMS])} FROM {long.table} "
            f"WHERE slice = :slice AND {long.unit} >= :unit"
        )
        connection.create_function(f"unit_of_{long.unit}", 1, long.of, deterministic=True)
        (compared,) = connection.execute(f"SELECT count(*) FROM {long.table} WHERE slice = ?", (number,)).fetchone()  # noqa: S608
        found.look("sums", compared)
        _tell(connection, union, "unit, tag", values, f"slice {number}, {long.unit}", f"days less {long.unit}s", found)


def _verify_failovers(connection: sqlite3.Connection, hour: int, found: Findings) -> None:
    expected = {row[:5]: row[5] for row in connection.execute(_FAILED_OVER, {"from_ms": hour * HOUR_MS})}
    sql = "SELECT hour, chain, from_target, to_target, reason, count FROM failovers_hourly WHERE hour >= ?"
    actual = {row[:5]: row[5] for row in connection.execute(sql, (hour,))}
    for key in sorted(expected.keys() | actual.keys()):
        found.look("sums")
        if expected.get(key) != actual.get(key):
            found.differs("sums", f"failovers {key}", f"rows {expected.get(key, 0)}, sums {actual.get(key, 0)}")
    for day, *move, count in connection.execute(_DAYS_OF_FAILOVERS):
        found.look("sums")
        if count:
            found.differs("sums", f"failovers of day {(day, *move)}", f"hours less days {count:+d}")


def _tell(
    connection: sqlite3.Connection, union: str, by: str, values: dict[str, int], what: str, less: str, found: Findings
) -> None:
    wrong = " OR ".join([f"total({name}) <> 0" for name in SUMS])
    sums = ", ".join([f"sum({name})" for name in SUMS])
    width = by.count(",") + 1
    for row in connection.execute(f"SELECT {by}, {sums} FROM ({union}) GROUP BY {by} HAVING {wrong}", values):  # noqa: S608
        differing = [f"{name} {value:+d}" for name, value in zip(SUMS, row[width:], strict=True) if value]
        found.differs("sums", f"{what} {' / '.join(map(str, row[:width]))}", f"{less}: {', '.join(differing)}")


class _Journal:
    """What the segments that are still there say, against what is in the tables."""

    def __init__(self, connection: sqlite3.Connection, directory: Path, found: Findings) -> None:
        self._connection = connection
        self._directory = directory
        self._found = found
        known = connection.execute("SELECT name, position, finished FROM segments").fetchall()
        self._known = {name: (position, bool(finished)) for name, position, finished in known}
        gone = connection.execute("SELECT value FROM marks WHERE name = 'rows_gone_until_ms'").fetchone()
        self._forgotten = "" if gone is None else first_id(gone[0] + 1)

    def verify(self) -> None:
        for name, (position, finished) in sorted(self._known.items()):
            self._found.look("segments")
            path = self._path(name)
            if path is None:
                if not finished:
                    self._found.differs("segments", name, f"it is gone, and was read to byte {position} only")
                continue
            try:
                self._verify_segment(path, position, finished=finished)
            except FileNotFoundError:
                continue  # old enough to be deleted, just now
        for path in sorted((self._directory / "drained").glob(f"*{SEGMENT_SUFFIX}")):
            if not self._known.get(path.name, (0, False))[1]:
                self._found.differs(
                    "segments", path.name, "it was set aside, and the tables do not know that it was read to its end"
                )

    def _path(self, name: str) -> Path | None:
        for path in (self._directory / name, self._directory / "drained" / name):
            if path.exists():
                return path
        return None

    def _verify_segment(self, path: Path, position: int, *, finished: bool) -> None:
        size = path.stat().st_size
        if position > size:
            self._found.differs("segments", path.name, f"it was read to byte {position} and has {size}")
        at = 0
        with path.open("rb") as file:
            while at < position:
                file.seek(at)
                records, taken = split_frames(file.read(min(READ_BYTES, position - at)), _RECORDS)
                if not taken:
                    self._found.differs(
                        "segments", path.name, f"it was read to byte {position}, and is no longer whole from byte {at} on"
                    )
                    return
                at += taken
                self._verify_records(path.name, records)
            file.seek(position)
            if finished and split_frames(file.read(READ_BYTES), 1)[1]:
                self._found.differs("segments", path.name, f"it goes on after byte {position}, where reading ended")

    def _verify_records(self, name: str, records: list[Fields]) -> None:
        begun, ended, closed = _sorted(records)
        ids = orjson.dumps(list({request_id for request_id, _ in (*begun, *ended)} | closed.keys())).decode()
        attempts = {row[:2]: row[2:] for row in self._connection.execute(_ATTEMPTS, (ids,))}
        requests = {row[0]: row[1:] for row in self._connection.execute(_REQUESTS, (ids,))}
        self._found.look("journal", len(begun) + len(ended) + len(closed))
        for key in begun - attempts.keys():
            if key[0] >= self._forgotten:
                self._differs(name, key, "it was begun, and has no row")
        for key, record in ended.items():
            row = attempts.get(key)
            if row is None or row[0] != 2 or row[1:5] != (record[_OUTCOME], record[_INPUT], record[_OUTPUT], record[_COST]):
                self._verify_end(name, key, record, row)
        for request_id, outcome in closed.items():
            row = requests.get(request_id)
            if row is None:
                if request_id >= self._forgotten:
                    self._found.differs("journal", request_id, f"it ended by {name}, and has no row")
            elif row[1] not in (outcome, "interrupted"):
                self._found.differs("journal", request_id, f"its outcome is {outcome} in {name} and {row[1]} in the rows")

    def _verify_end(self, name: str, key: tuple[str, int], record: Fields, row: tuple[Any, ...] | None) -> None:
        if row is None:
            if key[0] >= self._forgotten:
                self._differs(name, key, "it ended, and has no row")
            return
        rank, outcome, input_tokens, output_tokens, cost_nusd, repriced = row
        if rank == 2 and outcome == "interrupted":
            return  # its writer was taken for dead before the record was found: the first end counts
        if rank < 2:
            self._differs(name, key, "it ended, and runs in the rows")
        elif (outcome, input_tokens, output_tokens) != (record[_OUTCOME], record[_INPUT], record[_OUTPUT]):
            said = f"{record[_OUTCOME]}, {record[_INPUT]} and {record[_OUTPUT]} tokens"
            self._differs(name, key, f"the journal has {said}, the rows {outcome}, {input_tokens} and {output_tokens}")
        elif cost_nusd != record[_COST] and not repriced:
            self._differs(name, key, f"the journal has a cost of {record[_COST]} nano-dollars, the rows {cost_nusd}")

    def _differs(self, name: str, key: tuple[str, int], message: str) -> None:
        self._found.differs("journal", f"attempt {key[0]}-{key[1]}", f"{message} (segment {name})")


def _sorted(
    records: list[Fields],
) -> tuple[set[tuple[str, int]], dict[tuple[str, int], Fields], dict[str, str]]:
    """Begins, ends and outcomes of requests; of what is told twice the first counts. What this release does not write is passed over."""
    begun: set[tuple[str, int]] = set()
    ended: dict[tuple[str, int], Fields] = {}
    closed: dict[str, str] = {}
    for record in records:
        kind, size = (record[0], len(record)) if isinstance(record, list) and record else (None, 0)
        if kind == "E" and size >= _END_SIZE:
            request_id, close = record[_REQUEST_ID], record[_CLOSE]
            ended.setdefault((request_id, record[_N]), record)
            if close is not None:
                closed.setdefault(request_id, close[_CLOSING])
        elif kind == "B" and size >= _BEGIN_SIZE:
            begun.add((record[_REQUEST_ID], record[_N]))
        elif kind == "R":
            match record:
                case [_, [_, *_], [_, *_], *_]:
                    closed.setdefault(record[_OPENED][0], record[_CLOSED][_CLOSING])
    return begun, ended, closed
