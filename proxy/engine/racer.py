"""An attempt in a task of its own, as far as its first content: one of two that race, see `hedge.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.core.chat import ChatRequest
from proxy.core.deadlines import NEVER
from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import RequestHead
from proxy.engine.attempt import Attempt
from proxy.engine.control import Control
from proxy.engine.services import Services


class Racer:
    """Begins at once. In the end `out` is there, what has come and is to be handed on, or `error`; `wake` is called then."""

    __slots__ = ("_control", "_fresh", "_head", "_request", "_services", "_task", "_total_at", "_wake", "attempt", "error", "out")

    def __init__(
        self,
        services: Services,
        request: ChatRequest,
        attempt: Attempt,
        head: RequestHead,
        *,
        total_at: float,
        fresh: bool,
        wake: Callable[[], None],
    ) -> None:
        self.attempt = attempt
        self.out: bytes | None = None
        self.error: UpstreamError | None = None
        self._services = services
        self._request = request
        self._head = head
        self._total_at = total_at
        self._fresh = fresh
        self._wake = wake
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._control = attempt.control = Control(self._task)
        services.deadlines.watch(self._control)

    def stop(self) -> None:
        """Idempotent. What still waits is cancelled and its connection cut; what is there stays."""
        self._services.deadlines.forget(self._control)
        if not self._task.done():
            self._task.cancel()
            self.attempt.close()

    async def _run(self) -> None:
        attempt, services = self.attempt, self._services
        candidate = attempt.candidate
        provider = candidate.target.provider
        try:
            head = self._head
            if provider.signs:
                head = await services.authorizer.authorize(provider, candidate.credential, head, attempt.outbound.body)
            transport = services.transports[provider.transport]
            self.out = await attempt.reach(self._request, transport, head, total_at=self._total_at, fresh=self._fresh)
        except UpstreamError as error:
            self.error = error
        except asyncio.CancelledError:
            self.error = self._control.cause()
            if self.error is None:
                raise
        except Exception as fault:  # noqa: BLE001 - as in the relay: a fault of our own is answered, and logged whole
            services.log.error("internal_error", request_id=attempt.id.rpartition("-")[0], fault=repr(fault)[:500])
            self.error = UpstreamError(ErrorClass.INTERNAL, "the proxy failed on this answer")
        self._control.deadline = NEVER
        self._wake()
