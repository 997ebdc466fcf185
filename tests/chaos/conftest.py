"""The same fake upstream and the same proxies as the end-to-end tests."""

from tests.e2e.conftest import launch as launch
from tests.e2e.conftest import monkeypatch_module as monkeypatch_module
from tests.e2e.conftest import start as start
from tests.e2e.conftest import upstream as upstream
