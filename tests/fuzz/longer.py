"""A pytest plugin for `make fuzz`: every property test draws many times as many examples as it says, and other ones each time."""

from __future__ import annotations

import os
from typing import Any

import hypothesis

FACTOR = int(os.environ.get("FUZZ_FACTOR", "20"))
_DEFAULT_EXAMPLES = 100
_original = hypothesis.settings.__init__


def _longer(self: hypothesis.settings, *args: Any, **options: Any) -> None:
    if isinstance(options.get("max_examples"), int):
        options["max_examples"] *= FACTOR
    options["deadline"] = None
    _original(self, *args, **options)


def pytest_configure() -> None:
    """Before any test is collected: what a test says of itself is said to `settings`, what it does not say is in the profile."""
    hypothesis.settings.register_profile("longer", max_examples=_DEFAULT_EXAMPLES * FACTOR, deadline=None, derandomize=False)
    hypothesis.settings.load_profile("longer")
    hypothesis.settings.__init__ = _longer  # type: ignore[method-assign]
