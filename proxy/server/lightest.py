"""The shortest of completions, for a provider that has no free check and whose operator allows one to be paid for.

It is asked as any caller would ask: so it is in the ledger, under its own task, it counts for budgets and limits, and its outcome is
what circuits and cards learn from. Nobody reads the answer.
"""

from __future__ import annotations

import asyncio

import orjson

from proxy.core.errors import ErrorClass
from proxy.core.ports import HeaderList
from proxy.core.target import Provider
from proxy.engine.control import Control
from proxy.server.gateway import Gateway

TASK = b"health-check"


async def lightest_call(gateway: Gateway, provider: Provider) -> None:
    """Asks the first model that a chain names of the provider, for as long as `health.timeout`. Without such a model nothing is asked."""
    named = (target for chain in gateway.settings.chains.values() for target in chain.targets)
    target = next((target for target in named if target.provider.name == provider.name and target.disabled is None), None)
    task = asyncio.current_task()
    if target is None or task is None:
        return
    body = orjson.dumps({"model": target.name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
    if gateway.services.warming is not None:
        await asyncio.wait(
            (gateway.services.warming,)
        )  # the time that reading the prices takes at the start is not the provider's
    control = Control(task)
    # a silent provider fails as it would for a caller who waits no longer
    timer = asyncio.get_running_loop().call_later(provider.health.timeout_s, control.interrupt, ErrorClass.TTFB_TIMEOUT)
    try:
        await gateway.chat({b"x-tollbridge-task": TASK}, body, None, _Nobody(), control, request_id=gateway.new_id())
    finally:
        timer.cancel()


class _Nobody:
    """A `Sink` that takes everything."""

    async def respond(self, status: int, headers: HeaderList, body: bytes) -> None: ...
    def start(self, status: int, headers: HeaderList) -> None: ...
    def push(self, data: bytes) -> bool:
        return True

    async def drain(self) -> None: ...
    async def finish(self, data: bytes = b"") -> None: ...
    def abort(self) -> None: ...
