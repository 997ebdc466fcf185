"""When Python's collector walks.

It sets out when so many more containers were made than freed, and looks at all that were made since its last walk, alive or not. A
request leaves no garbage behind, so where thousands are connected there are only living ones to look at: 40 to 100 ms, in which nobody is
answered, for nothing. So it waits for as many more as each caller has when he is served; and where there are many, it leaves alone for
longer what has outlived a walk.
"""

from __future__ import annotations

CONTAINERS = 20_000
EACH = 100  # a caller's connection has 40, and a stream on it 50
TIMES = 20  # walks over what is new before one over what outlived them, and of these before one over all
MANY = 500  # callers: while there are more, what outlived a walk is walked over after `LATER` more
LATER = 1_000


def thresholds(connections: int) -> tuple[int, int, int]:
    """For `gc.set_threshold`, while so many callers' connections are open."""
    return CONTAINERS + EACH * connections, TIMES if connections <= MANY else LATER, TIMES
