"""What every test may use."""

import gc

import hypothesis
import pytest

# The suite draws the same examples each time: what turns it red is a change, never a throw. `make fuzz` draws others, and many more.
hypothesis.settings.register_profile("suite", max_examples=50, derandomize=True, deadline=None)
hypothesis.settings.load_profile("suite")


gc.disable()  # while the tests are collected: what is made then stays until the end


def pytest_collection_finish() -> None:
    gc.freeze()  # and is not looked through again and again
    gc.enable()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
