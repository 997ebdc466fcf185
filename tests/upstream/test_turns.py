"""Each read of a provider's answer is a piece of the loop's turn."""

from typing import NoReturn, cast

import pytest

from proxy.core.ports import Origin
from proxy.core.turn import PIECES, Turn
from proxy.upstream.connection import Connection

pytestmark = pytest.mark.unit


class Owner:
    def park(self, connection: Connection) -> bool:
        return False

    def forget(self, connection: Connection) -> None: ...


def never() -> NoReturn:
    raise AssertionError("nobody waits here")


def test_in_so_many_reads_of_all_connections_together_whoever_is_in_a_hurry_is_asked_once() -> None:
    turn, asked = Turn(), []
    turn.hurried = lambda: asked.append(True)
    connections = [Connection(Owner(), cast(Origin, None), never, turn) for _ in range(2)]
    for _ in range(PIECES - 1):
        connections[0].data_received(b"nobody asked for this")
    assert asked == []
    connections[1].data_received(b"nobody asked for this")
    assert asked == [True]
