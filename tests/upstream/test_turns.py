"""Each read of a provider's answer is a piece of the loop's turn."""

import asyncio
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


class Transport:
    """Whether it is read from."""

    reading = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None: ...


def connected(turn: Turn) -> tuple[Connection, Transport]:
    connection, transport = Connection(Owner(), cast(Origin, None), never, turn), Transport()

    async def connect() -> None:
        connection.connection_made(cast(asyncio.Transport, transport))

    asyncio.run(connect())
    return connection, transport


def test_in_a_turn_that_is_too_long_whoever_was_read_rests_until_the_next() -> None:
    turn, asked = Turn(), []
    turn.hurried = lambda: asked.append(True)
    (first, one), (_, other) = connected(turn), connected(turn)
    first.data_received(b"x")
    assert one.reading
    turn.is_too_long()
    first.data_received(b"x")
    assert (one.reading, other.reading, asked) == (False, True, [])
    for _ in range(PIECES):
        first.data_received(b"x")
    assert asked == [True], "whoever is in a hurry is still asked as often"
    turn.end()
    assert one.reading
    first.data_received(b"x")
    assert one.reading


def test_who_rests_and_takes_nothing_for_the_moment_is_not_read_on() -> None:
    turn = Turn()
    connection, transport = connected(turn)
    turn.is_too_long()
    connection.data_received(b"x")
    connection.pause()
    turn.end()
    assert not transport.reading
    connection.resume()
    assert transport.reading
