"""Which of several workers a process is.

`tollbridge serve --workers N` runs N processes that serve the same port. Each sits in a seat of its own; a worker that dies is replaced by
another in the same seat. A process that serves alone has no seat: where one may be given, `None` stands for that.
"""

from dataclasses import dataclass
from pathlib import Path

LEAD = 0
"""The seat whose worker does what must be done once: health checks, alerts, seeding of budgets, the admin's routes."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One of `of` seats, counted from 0. `directory` is where the workers meet: their sockets and the file that they share."""

    index: int
    of: int
    directory: Path

    @property
    def leads(self) -> bool:
        """Whether this is the lead's seat."""
        return self.index == LEAD
