"""Every provider at once, in this process: acts out the script, on the loop's time, in each provider's own dialect.

send ── refuse, reset ── raises          first token, or the whole answer ── the head ── the body, piece by piece
     └─ timeout ── never comes back                                                         ├─ cut ── raises in the middle
                                                                                            └─ stall ── never comes back
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import pairwise
from math import ceil

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import HeaderList, RequestHead
from proxy.core.target import Credential, Provider
from proxy.simulation import wire
from proxy.simulation.loop import VirtualClock
from proxy.simulation.prompts import Prompts, words
from proxy.simulation.script import Act, Script

PIECES = 6  # of a stream, or as many as it takes for none to be longer than PIECE_S
PIECE_S = 2.0
DOMAIN = "simulated.invalid"


class ScriptedUpstream:
    """`core.ports.UpstreamTransport`. `providers`: by the host that stands in for each."""

    def __init__(self, script: Script, prompts: Prompts, providers: Mapping[str, Provider], clock: VirtualClock) -> None:
        self._script = script
        self._prompts = prompts
        self._providers = providers
        self._clock = clock
        self._answers = 0

    async def send(self, head: RequestHead, body: bytes, *, connect_timeout_s: float, fresh: bool = False) -> ScriptedResponse:
        provider = self._providers[head.origin.host]
        asked = wire.read_request(provider.dialect, head.path, body)
        prompt = self._prompts.found_in(body)
        act = self._script.act(provider.name, asked.model, self._clock.passed_s)
        limit = asked.max_tokens
        cut_off = limit is not None and limit < prompt.output_tokens
        output_tokens = limit if cut_off and limit is not None else prompt.output_tokens
        if asked.stream or act.kind not in ("answer", "cut", "stall"):
            await asyncio.sleep(act.first_token_s)
        elif act.kind == "answer":
            await asyncio.sleep(act.first_token_s + act.token_s * output_tokens)
        match act.kind:
            case "refuse":
                raise UpstreamError(ErrorClass.CONNECT, "simulated: the connection is refused", sent=False)
            case "reset":
                raise UpstreamError(ErrorClass.RESET, "simulated: the connection is reset")
            case "timeout":
                await asyncio.Event().wait()
            case "error":
                return ScriptedResponse(act.status, _error_headers(act), iter([wire.error(asked.form, act.status, act.code)]))
            case "empty":
                return ScriptedResponse(200, wire.headers(asked.form, stream=asked.stream), iter(()))
            case _:
                pass
        self._answers += 1
        answer = wire.Answer(
            id=f"simulated-{self._answers}",
            model=asked.model,
            created=int(self._clock.wall()),
            texts=_pieces(output_tokens, act.token_s if asked.stream else 0.0, prompt.number),
            input_tokens=prompt.input_tokens,
            output_tokens=output_tokens,
            cut_off=cut_off,
            usage=asked.wants_usage or not asked.stream or provider.quirks.usage_in_stream == "always",
        )
        if asked.stream:
            pieces = wire.streamed(asked.form, answer)
            pause_s = act.token_s * output_tokens / len(answer.texts)
        else:
            body = wire.whole(asked.form, answer)
            pieces = [body] if act.kind == "answer" else [body[: len(body) // 2], b""]
            pause_s = 0.0
        if act.kind != "answer":
            pieces = pieces[: len(pieces) // 2]
        breaks = {"cut": _cut, "stall": _stall}.get(act.kind)
        return ScriptedResponse(200, wire.headers(asked.form, stream=asked.stream), iter(pieces), pause_s, breaks)

    async def aclose(self) -> None:
        """There is nothing to close."""


async def _cut() -> None:
    raise UpstreamError(ErrorClass.TRUNCATED, "simulated: the connection was closed in the middle of the answer")


async def _stall() -> None:
    await asyncio.Event().wait()


class ScriptedResponse:
    """`core.ports.UpstreamResponse`: pieces of a body with pauses between them, and what breaks it."""

    def __init__(
        self,
        status: int,
        headers: HeaderList,
        pieces: Iterator[bytes],
        pause_s: float = 0.0,
        breaks: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.reused = True
        self._pieces = pieces
        self._pause_s = pause_s
        self._breaks = breaks
        self._begun = False

    def at_hand(self) -> bytes | None:
        return None

    async def pump(self, consume: Callable[[bytes], bool]) -> bool:
        while data := await self.read():
            if not consume(data):
                return False
        return True

    async def read(self) -> bytes:
        piece = next(self._pieces, b"")
        if not piece:
            if self._breaks is not None:
                await self._breaks()
            return b""
        if self._begun and self._pause_s:
            await asyncio.sleep(self._pause_s)
        self._begun = True
        return piece

    def close(self) -> None:
        self._pieces, self._breaks = iter(()), None


class NothingToSign:
    """`engine.services.Authorizer`: nobody looks at signatures here."""

    async def authorize(self, provider: Provider, credential: Credential, head: RequestHead, body: bytes) -> RequestHead:
        return head


def _error_headers(act: Act) -> HeaderList:
    waits = [] if act.retry_after_s is None else [(b"retry-after", str(ceil(act.retry_after_s)).encode())]
    return [(b"content-type", b"application/json"), *waits]


def _pieces(tokens: int, token_s: float, start: int) -> list[str]:
    """An answer of so many tokens, in the pieces that it is streamed in."""
    count = min(tokens, max(PIECES, ceil(tokens * token_s / PIECE_S)))
    cuts = [tokens * n // count for n in range(count + 1)]
    text = words(tokens, start).ljust(tokens * 4, ".")
    return [text[begin * 4 : end * 4] for begin, end in pairwise(cuts)]
