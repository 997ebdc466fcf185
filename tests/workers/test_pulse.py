"""What a supervisor and its workers share: whatever a killed writer leaves behind, what is read is whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.workers.pulse import MAX_PUBLISHED_BYTES, Pulse
from proxy.workers.restarts import DELAYS_S, STEADY_S, Restarts

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def pulse() -> Pulse:
    return Pulse(3)


def test_seats_do_not_touch_each_other(pulse: Pulse) -> None:
    for index in range(3):
        pulse.take_seat(index, 100 + index, 5.0 + index)
        pulse.beat(index, 10.0 + index)
        assert pulse.publish(index, b"%d" % index * (index + 1), 20.0 + index)
    pulse.serves(1)

    assert [pulse.pid(index) for index in range(3)] == [100, 101, 102]
    assert [pulse.beat_at(index) for index in range(3)] == [10.0, 11.0, 12.0]
    assert [pulse.is_serving(index) for index in range(3)] == [False, True, False]
    assert [pulse.published(index) for index in range(3)] == [b"0", b"11", b"222"]
    assert [pulse.published_at(index) for index in range(3)] == [20.0, 21.0, 22.0]
    assert (pulse.worker_restarts, pulse.drainer_restarts, pulse.caught_up, pulse.seeded) == (0, 0, False, False)


def test_who_leaves_a_seat_leaves_what_was_published() -> None:
    pulse = Pulse(1)
    assert pulse.published(0) is None
    pulse.take_seat(0, 77, 1.0)
    pulse.serves(0)
    pulse.publish(0, b"counted", 2.0)
    pulse.leave_seat(0)

    assert (pulse.pid(0), pulse.is_serving(0), pulse.published(0)) == (0, False, b"counted")


def test_the_header_says_what_happened() -> None:
    pulse = Pulse(2)
    pulse.supervised_by(4711)
    pulse.drained_by(4712)
    pulse.take_seat(1, 4713, 1.0)
    pulse.count_restart(of_worker=True)
    pulse.count_restart(of_worker=False)
    pulse.count_restart(of_worker=False)
    pulse.drainer_caught_up()
    pulse.has_seeded()
    pulse.ask(12.5)

    assert pulse.processes() == [4711, 4712, 4713]
    assert (pulse.worker_restarts, pulse.drainer_restarts) == (1, 2)
    assert (pulse.caught_up, pulse.seeded, pulse.asked_at) == (True, True, 12.5)


def test_what_is_too_long_is_not_published() -> None:
    pulse = Pulse(1)
    assert pulse.publish(0, b"x" * MAX_PUBLISHED_BYTES, 1.0)
    assert not pulse.publish(0, b"y" * (MAX_PUBLISHED_BYTES + 1), 2.0)
    assert (pulse.published(0), pulse.published_at(0)) == (b"x" * MAX_PUBLISHED_BYTES, 1.0)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.binary(max_size=200), st.integers(0, 208))
@pytest.mark.property
def test_a_writer_that_is_killed_leaves_what_it_wrote_before(whole: list[bytes], torn: bytes, reached: int) -> None:
    pulse = Pulse(1)
    for content in whole:
        pulse.publish(0, content, 1.0)
    # as far as it came with the next one: the number that says which is the last was not moved
    at = Pulse._buffer(0, len(whole) + 1)
    length = (len(torn)).to_bytes(4, "little") + b"\1\2\3\4" + torn
    cut = length[:reached]
    pulse._bytes[at : at + len(cut)] = cut

    assert pulse.published(0) == whole[-1]


@pytest.mark.parametrize(
    ("lives", "delays"),
    [
        ([100.0], [0.0]),
        ([None], [0.0]),
        ([None] * 9, [*DELAYS_S[1:], 5.0, 5.0]),
        ([0.5, 0.5, 0.5, STEADY_S, 0.5], [0.0, 0.0, 0.25, 0.0, 0.0]),
    ],
    ids=["after a long life", "at its first start", "at every start", "a steady one begins anew"],
)
def test_what_dies_is_started_at_once_and_slower_if_it_keeps_dying(lives: list[float | None], delays: list[float]) -> None:
    restarts = Restarts()
    assert [restarts.died(served_s) for served_s in lives] == delays
    assert restarts.count == len(lives)
