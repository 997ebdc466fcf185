"""A long turn of the loop is interrupted every so many pieces, for those who are in a hurry."""

import pytest

from proxy.core.turn import PIECES, Turn

pytestmark = pytest.mark.unit


class Restless:
    def rest(self) -> None:
        raise AssertionError("no turn is too long here")

    def read_on(self) -> None: ...


def test_whoever_is_in_a_hurry_is_asked_once_in_so_many_pieces() -> None:
    turn, done, asked = Turn(), 0, []
    turn.hurried = lambda: asked.append(done)
    for done in range(1, 3 * PIECES):  # noqa: B007 - it is what is asked for
        turn.left -= 1
        if turn.left <= 0:
            turn.pause(Restless())
    assert asked == [PIECES, 2 * PIECES]


def test_nobody_need_be_in_a_hurry() -> None:
    turn = Turn()
    turn.left = 0
    turn.pause(Restless())
    assert turn.left == PIECES
