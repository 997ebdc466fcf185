"""The file of kept answers: what comes back, what it may hold, who may read it, and what becomes of a file that is not what it was."""

from __future__ import annotations

import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.kept import OVERHEAD_BYTES, Held, Kept, Room, StoreFault
from proxy.storage.kept_file import ANSWERS, VERSION, KeptFile

unit = pytest.mark.unit

ROOM = Room("", 60_000, 100, 1 << 20)
NOW = 1_800_000_000_000
KEY = b"k" * 20
KEPT = Kept("R1", "smart", "a", "m/ä", NOW, 50_000, 10, 20, ("seed",), b'{"choices": []}')


@pytest.fixture
def file(tmp_path: Path) -> KeptFile:
    return KeptFile(tmp_path)


def put(file: KeptFile, name: int, *, room: Room = ROOM, **changes: object) -> None:
    file.put(room, b"%020d" % name, replace(KEPT, **changes), NOW)  # type: ignore[arg-type]


def there(file: KeptFile, names: range, *, now_ms: int = NOW) -> list[int]:
    return [name for name in names if file.get(ROOM, b"%020d" % name, now_ms) is not None]


@unit
def test_what_is_kept_comes_back_as_it_was(file: KeptFile) -> None:
    file.put(ROOM, KEY, KEPT, NOW)
    assert file.get(ROOM, KEY, NOW) == KEPT
    assert file.get(ROOM, b"l" * 20, NOW) is None
    unpriced = replace(KEPT, cost_nusd=None, dropped=())
    file.put(ROOM, KEY, unpriced, NOW)
    assert file.get(ROOM, KEY, NOW) == unpriced
    assert file.held() == {"smart": Held(1, len(KEPT.body) + OVERHEAD_BYTES)}


@unit
def test_it_outlives_the_process_and_is_shared_with_others(tmp_path: Path) -> None:
    one, two = KeptFile(tmp_path), KeptFile(tmp_path)
    one.put(ROOM, KEY, KEPT, NOW)
    assert two.get(ROOM, KEY, NOW) == KEPT
    one.close()
    assert KeptFile(tmp_path).get(ROOM, KEY, NOW) == KEPT
    two.clear(None, NOW + 1)
    assert one.get(ROOM, KEY, NOW) is None


@unit
def test_nobody_else_may_read_it_and_it_names_nobody(file: KeptFile) -> None:
    assert not file.is_there()
    assert (file.get(ROOM, KEY, NOW), file.held(), file.clear(None, NOW)) == (None, {}, 0)
    assert not file.is_there()
    before = os.umask(0)
    try:
        file.put(ROOM, KEY, KEPT, NOW)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in file.path.parent.iterdir()] == [0o600] * len(
        list(file.path.parent.iterdir())
    )


@unit
def test_what_is_too_old_is_not_given_and_goes(file: KeptFile) -> None:
    file.put(ROOM, KEY, KEPT, NOW)
    assert file.get(ROOM, KEY, NOW + 59_999) is not None
    assert file.get(ROOM, KEY, NOW + 60_000) is None
    assert file.held() == {}
    file.put(ROOM, KEY, KEPT, NOW)
    assert file.get(ROOM, KEY, NOW - 1) is None  # the clock was set back: how old it is nobody knows
    put(file, 1)
    put(file, 2, room=Room("own", 60_000, 100, 1 << 20), kept_ms=NOW + 60_000)
    assert file.held() == {"smart": Held(1, KEPT.size)}


@unit
def test_what_is_too_old_does_not_lie_about(file: KeptFile) -> None:
    file.sweep(NOW)
    assert not file.is_there()
    put(file, 1, body=os.urandom(500_000))
    put(file, 2, kept_ms=NOW + 1)
    file.sweep(NOW + 60_000)
    assert there(file, range(3), now_ms=NOW + 60_000) == [2]
    assert file.path.stat().st_size < 100_000


@unit
def test_the_number_of_answers_is_bounded_and_those_not_asked_for_go_first(file: KeptFile) -> None:
    room = ROOM._replace(max_entries=3)
    for name in range(3):
        put(file, name, room=room, kept_ms=NOW + name)
    assert file.get(ROOM, b"%020d" % 0, NOW + 10_000) is not None
    put(file, 3, room=room, kept_ms=NOW + 10_001)
    assert there(file, range(4), now_ms=NOW + 10_001) == [0, 2, 3]
    put(file, 4, room=ROOM._replace(max_entries=1), kept_ms=NOW + 10_002)
    assert there(file, range(5), now_ms=NOW + 10_002) == [4]


@unit
def test_the_bytes_are_bounded(file: KeptFile) -> None:
    body = b"x" * 1000
    room = ROOM._replace(max_bytes=3 * (1000 + OVERHEAD_BYTES))
    for name in range(5):
        put(file, name, room=room, body=body, kept_ms=NOW + name)
    assert there(file, range(5), now_ms=NOW + 5) == [2, 3, 4]
    put(file, 5, room=room, body=b"x" * 10_000)
    assert there(file, range(6), now_ms=NOW + 5) == [2, 3, 4]


@unit
def test_pools_have_room_of_their_own(file: KeptFile) -> None:
    own = Room("own", 60_000, 1, 1 << 20)
    put(file, 0)
    for name in range(1, 4):
        put(file, name, room=own, chain="own")
    assert there(file, range(4)) == [0, 3]
    assert file.held() == {"smart": Held(1, KEPT.size), "own": Held(1, KEPT.size)}


@unit
def test_one_chain_or_everything_is_cleared_and_what_was_asked_for_before_is_not_kept(file: KeptFile) -> None:
    put(file, 0)
    put(file, 1, chain="plain")
    assert file.clear("smart", NOW + 5) == 1
    assert there(file, range(2)) == [1]
    file.put(ROOM, KEY, KEPT, NOW + 5)
    assert file.get(ROOM, KEY, NOW + 5) is None
    file.put(ROOM, KEY, KEPT, NOW + 6)
    assert file.get(ROOM, KEY, NOW + 6) is not None
    assert file.clear(None, NOW + 7) == 2
    assert file.held() == {}


@unit
def test_the_room_on_the_disk_is_given_back(file: KeptFile) -> None:
    for name in range(5):
        put(file, name, body=os.urandom(100_000))
    assert file.path.stat().st_size > 500_000
    file.clear(None, NOW)
    assert file.path.stat().st_size < 100_000


@unit
def test_a_file_that_is_gone_is_made_anew(file: KeptFile) -> None:
    file.put(ROOM, KEY, KEPT, NOW)
    file.path.unlink()
    assert file.get(ROOM, KEY, NOW) is None
    file.put(ROOM, KEY, KEPT, NOW)
    assert KeptFile(file.path.parent).get(ROOM, KEY, NOW) == KEPT


def spoil(path: Path) -> None:
    path.write_bytes(b"this is no database at all" * 100)


def of_another_release(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()


@unit
@pytest.mark.parametrize("harm", [spoil, of_another_release])
def test_a_damaged_file_is_told_once_and_made_anew(harm: object, file: KeptFile) -> None:
    assert callable(harm)
    file.put(ROOM, KEY, KEPT, NOW)
    file.close()
    harm(file.path)
    careful = KeptFile(file.path.parent, mend=False)
    for _ in range(2):
        with pytest.raises(StoreFault, match=ANSWERS):
            careful.held()
    with pytest.raises(StoreFault, match=ANSWERS):
        file.get(ROOM, KEY, NOW)
    file.put(ROOM, KEY, KEPT, NOW)
    assert file.get(ROOM, KEY, NOW) == KEPT


@unit
@pytest.mark.parametrize("column", ["about", "body", "digest"])
def test_a_row_that_is_not_what_was_written_is_as_good_as_not_there(column: str, file: KeptFile) -> None:
    file.put(ROOM, KEY, KEPT, NOW)
    connection = sqlite3.connect(file.path)
    other = {"about": str(KEPT.request_id), "body": b"{}", "digest": b"d"}[column]
    connection.execute(f"UPDATE answers SET {column} = ?", (other,))
    connection.commit()
    connection.close()
    assert file.get(ROOM, KEY, NOW) is None
    assert file.held() == {}


@unit
def test_a_row_under_another_key_is_not_given(file: KeptFile) -> None:
    file.put(ROOM, KEY, KEPT, NOW)
    connection = sqlite3.connect(file.path)
    connection.execute("UPDATE answers SET key = ?", (b"l" * 20,))
    connection.commit()
    connection.close()
    assert file.get(ROOM, b"l" * 20, NOW) is None


@unit
def test_a_place_that_cannot_be_written_is_told_by_its_name_alone(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    file = KeptFile(tmp_path / "data")
    with pytest.raises(StoreFault, match=r"^answers\.db: ") as told:
        file.put(ROOM, KEY, KEPT, NOW)
    assert "choices" not in str(told.value)


@unit
def test_a_full_disk_is_told_and_what_was_there_stays(file: KeptFile) -> None:
    put(file, 0)
    assert file._connection is not None
    (pages,) = file._connection.execute("PRAGMA page_count").fetchone()
    file._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreFault, match="full"):
        put(file, 1, body=b"x" * 500_000)
    assert there(file, range(2)) == [0]


@unit
def test_two_writers_wait_for_each_other(tmp_path: Path) -> None:
    one, two = KeptFile(tmp_path), KeptFile(tmp_path)
    for name in range(20):
        put(one if name % 2 else two, name)
    assert there(one, range(20)) == there(two, range(20)) == list(range(20))


@pytest.mark.property
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["", "own"]), st.integers(0, 2_000), st.sampled_from("ppppgcs")), max_size=25
    )
)
def test_the_sums_are_right_and_within_the_bounds_whatever_happens(steps: list[tuple[int, str, int, str]]) -> None:
    with TemporaryDirectory() as folder:
        file, now = KeptFile(Path(folder)), NOW
        for name, pool, size, what in steps:
            room, key = Room(pool, 5_000, 3, 5_000), b"%020d" % name
            now += size
            if what == "p":
                file.put(room, key, replace(KEPT, chain=pool or "smart", body=b"x" * size, kept_ms=now), now)
            elif what == "g":
                file.get(room, key, now)
            elif what == "c":
                file.clear(pool or "smart", now)
                now += 1
            else:
                file.sweep(now)
            if file._connection is None:
                continue
            told = {name: (entries, size) for name, entries, size in file._connection.execute("SELECT * FROM totals")}
            counted = file._connection.execute("SELECT pool, count(*), sum(size) FROM answers GROUP BY pool").fetchall()
            assert {pool: sums for pool, sums in told.items() if sums[0]} == {
                pool: (count, size) for pool, count, size in counted
            }
            assert all(entries <= 3 and size <= 5_000 for entries, size in told.values())
            assert sum(held.entries for held in file.held().values()) == sum(entries for entries, _ in told.values())
        file.close()
