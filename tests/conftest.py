"""What every test may use."""

import hypothesis
import pytest

# The suite draws the same examples each time: what turns it red is a change, never a throw. `make fuzz` draws others, and many more.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
