"""What part of the ledger a report is about, read from a query string or from options of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from proxy.core.errors import InvalidValue

FILTERS = ("provider", "model", "chain", "client", "department", "agent", "task")
MAX_FILTER_CHARS = 512
MAX_ZONE_CHARS = 64
HOUR_MS = 3_600_000
MAX_MOMENT_MS = 253_370_764_800_000  # the first day of the year 9999
_AGO = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """From `since_ms` until `until_ms`, milliseconds since 1970. `this_month`: the month so far, which is what nobody asks otherwise.

    `time_zone` (an IANA name) says when days and months begin. `filters`: any of FILTERS.
    """

    since_ms: int
    until_ms: int
    time_zone: str = "UTC"
    filters: Mapping[str, str] = field(default_factory=dict)
    this_month: bool = False

    @property
    def period(self) -> dict[str, str]:
        return {"since": rfc3339(self.since_ms / 1000), "until": rfc3339(self.until_ms / 1000)}

    def before(self) -> Query:
        """What this period is compared with: of a month so far, as much of the month before; else as long a time just before.

        In whole hours, as the ledger sums, so that no hour counts for both.
        """
        since_ms, until_ms = self.since_ms // HOUR_MS * HOUR_MS, -(-self.until_ms // HOUR_MS) * HOUR_MS
        if not self.this_month:
            return replace(self, since_ms=since_ms - (until_ms - since_ms), until_ms=since_ms)
        zone = ZoneInfo(self.time_zone)
        first = datetime.fromtimestamp(self.since_ms / 1000, zone)
        earlier_ms = round((first - timedelta(days=1)).replace(day=1).timestamp() * 1000)
        return replace(self, since_ms=earlier_ms, until_ms=min(earlier_ms + until_ms - since_ms, self.since_ms), this_month=False)

    def narrowed(self, **filters: str) -> Query:
        return replace(self, filters={**self.filters, **filters})


def read_query(given: Mapping[str, str], wall: float, *, everything: bool = False) -> Query:
    """From `since`, `until`, `time_zone` and the FILTERS among what is given; empty ones count as missing.

    Without `since` it is this month, or, if `everything`, all that there is. Raises InvalidValue, naming the parameter.
    """
    time_zone = given.get("time_zone") or "UTC"
    zone = read_zone(time_zone)
    since_ms = moment_ms(given.get("since"), wall, zone=zone, param="since")
    until_ms = moment_ms(given.get("until"), wall, zone=zone, param="until")
    filters = {name: value for name in FILTERS if (value := given.get(name))}
    for name, value in filters.items():
        if len(value) > MAX_FILTER_CHARS:
            raise InvalidValue(f"`{name}` is longer than {MAX_FILTER_CHARS} characters.", param=name)
    this_month = since_ms is None and until_ms is None and not everything
    if until_ms is None:
        until_ms = round(wall * 1000)
    if since_ms is None:
        since_ms = 0 if everything else max(0, month_start_ms(until_ms, zone))
    if since_ms > until_ms:
        raise InvalidValue("`since` must not be later than `until`.", param="since")
    return Query(since_ms=since_ms, until_ms=until_ms, time_zone=time_zone, filters=filters, this_month=this_month)


def read_zone(name: str) -> ZoneInfo:
    """Raises InvalidValue."""
    try:
        if len(name) > MAX_ZONE_CHARS:
            raise ValueError("no zone has such a name")  # and looking for it would take a step for each slash in it
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise InvalidValue(
            "`time_zone` must be the name of a time zone, such as UTC or Europe/Berlin.", param="time_zone"
        ) from None


def moment_ms(text: str | None, wall: float, *, zone: tzinfo = UTC, param: str) -> int | None:
    """`7d` ago, an RFC 3339 time, a date, or seconds since 1970; in milliseconds. What names no zone is in `zone`. Raises InvalidValue."""
    if text is None or text == "":
        return None
    ago = _AGO.fullmatch(text)
    try:
        if ago is not None:
            moment = datetime.fromtimestamp(wall, UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        elif text.isdigit():
            return _within(_epoch_ms(text))
        else:
            moment = datetime.fromisoformat(text.replace(" ", "+"))  # a plus that nobody escaped arrives as a blank
        return _within(round((moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)).timestamp() * 1000))
    except (ValueError, OverflowError):
        raise InvalidValue(f"`{param}` must be a time such as 2026-11-21T00:00:00Z or 7d.", param=param) from None


def month_start_ms(moment: int, zone: tzinfo) -> int:
    """The begin of the month that `moment`, milliseconds since 1970, is in."""
    local = datetime.fromtimestamp(moment / 1000, zone)
    return round(local.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)


def day_start_ms(moment: int, zone: tzinfo) -> int:
    local = datetime.fromtimestamp(moment / 1000, zone)
    return round(local.replace(hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)


def rfc3339(wall: float) -> str:
    """`2026-11-21T14:30:00.000Z`, of seconds since 1970."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _epoch_ms(digits: str) -> int:
    if len(digits) > 15:
        raise ValueError("no such time")
    return int(digits) * 1000 if len(digits) <= 11 else int(digits)


def _within(moment: int) -> int:
    """Nothing was recorded before 1970, and calendars end with the year 9999."""
    if moment > MAX_MOMENT_MS:
        raise ValueError("no such time")
    return max(moment, 0)
