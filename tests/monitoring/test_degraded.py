"""What does not work while requests go on, in the words of `/readyz` and of the header."""

import pytest

from proxy.monitoring.degraded import FACTS, LAG_S, LOOK_EVERY_S, Degraded, Faults

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


class Enough(BaseException):
    pass


class Place:
    def __init__(self) -> None:
        self.lag_s: float | OSError | None = 0.0
        self.wrong: dict[str, str] = {}
        self.told: list[bytes] = []
        self.slept: list[float] = []
        self.degraded = Degraded(
            Faults(
                lag_s=self.lag,
                journal=lambda: self.wrong.get("journal"),
                cache=lambda: self.wrong.get("cache"),
                prices=lambda: self.wrong.get("prices"),
                health=lambda: self.wrong.get("health"),
            ),
            self.told.append,
            sleep=self.sleep,
        )

    async def lag(self) -> float | None:
        if isinstance(self.lag_s, OSError):
            raise self.lag_s
        return self.lag_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == 3:
            raise Enough


async def test_while_all_is_well_nothing_is_told() -> None:
    place = Place()
    await place.degraded.look()
    assert (place.degraded.parts, place.told) == ({}, [])


@pytest.mark.parametrize("part", ["cache", "prices", "health", "journal"])
async def test_each_part_is_named_and_told_once_until_it_is_well(part: str) -> None:
    place = Place()
    place.wrong[part] = "gone"
    await place.degraded.look()
    await place.degraded.look()
    name = "ledger" if part == "journal" else part
    assert place.degraded.parts == {name: "gone"}
    assert name in FACTS
    place.wrong.clear()
    await place.degraded.look()
    assert place.told == [name.encode(), b""]


async def test_several_stand_in_one_order() -> None:
    place = Place()
    place.wrong.update(health="a", prices="b", cache="c", journal="d")
    await place.degraded.look()
    assert place.told == [b"ledger, cache, prices, health"]


@pytest.mark.parametrize(
    ("lag_s", "said"),
    [(LAG_S, None), (LAG_S + 1, "31 s behind"), (None, "cannot be read"), (OSError(5, "Input/output error"), "Input/output")],
)
async def test_the_ledgers_database_may_be_behind_and_must_be_readable(lag_s: float | OSError | None, said: str | None) -> None:
    place = Place()
    place.lag_s = lag_s
    await place.degraded.look()
    assert place.degraded.database is None if said is None else said in str(place.degraded.database)
    assert place.told == ([] if said is None else [b"ledger"])


async def test_it_looks_every_other_second() -> None:
    place = Place()
    with pytest.raises(Enough):
        await place.degraded.run()
    assert place.slept == [LOOK_EVERY_S] * 3


def test_faults_are_asked_for_anew_each_time() -> None:
    place = Place()
    place.wrong["cache"] = "gone"
    assert place.degraded.parts == {"cache": "gone"}
