"""What an attempt has consumed: the provider's own figure where it can be believed, else our count, else an estimate."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from proxy.accounting.usage import estimate_input, estimate_output, suspect
from proxy.core.chat import ChatRequest
from proxy.core.usage import Usage, UsageSource
from proxy.engine.attempt import Attempt
from proxy.engine.control import Control
from proxy.engine.exchange import Exchange
from proxy.engine.services import Services


def is_doubtful(usage: Usage, attempt: Attempt, request: ChatRequest) -> bool:
    if usage.input_tokens <= request.body_bytes and usage.output_tokens <= attempt.text_bytes:
        return False  # a token is a byte at least
    limit = request.max_output_tokens
    return suspect(
        usage,
        body_bytes=request.body_bytes,
        text_bytes=attempt.text_bytes,
        max_output=limit * request.choices if limit is not None else None,
        body=request.body,
    )


async def counted(attempt: Attempt, exchange: Exchange, services: Services, control: Control) -> Usage:
    """Our own count, off the loop; the estimate when the caller leaves meanwhile, for then there is no time for it."""
    text = attempt.text()
    if attempt.stream is not None and attempt.text_bytes > len(text):
        return estimated(attempt, exchange.request)
    counter, body = services.counter, exchange.request.body
    embeds = exchange.request.kind == "embeddings"

    def count() -> tuple[int, int]:
        if embeds:
            return counter.count_input(body.get("input")), 0
        return counter.count_prompt(body), counter.count_texts([text.decode("utf-8", "replace")])

    loop = asyncio.get_running_loop()
    try:
        input_tokens, output_tokens = await loop.run_in_executor(services.executor, count)
    except asyncio.CancelledError:
        if control.cause() is None:
            raise
        return estimated(attempt, exchange.request)
    except Exception as fault:  # noqa: BLE001 - the answer is whole and paid for: it must not be lost over its count
        services.log.error("counting_failed", request_id=exchange.id, fault=repr(fault)[:500])
        return estimated(attempt, exchange.request)
    return Usage(input_tokens, output_tokens, source=UsageSource.COUNTED)


def estimated(attempt: Attempt, request: ChatRequest) -> Usage:
    """What can be said at once: by the bytes that went and came."""
    output_tokens = estimate_output(attempt.text_bytes) if request.kind == "chat" else 0
    return Usage(estimate_input(request.body_bytes), output_tokens, source=UsageSource.ESTIMATED)


def so_far(attempt: Attempt, request: ChatRequest) -> Usage:
    """Of an answer that broke off: the provider's own figure once it is final, else at least what was seen."""
    guess = estimated(attempt, request)
    reported = attempt.stream.usage if attempt.stream is not None else None
    if reported is None or is_doubtful(reported, attempt, request):
        return guess
    if attempt.finish_reason is not None or reported.output_tokens >= guess.output_tokens:
        return reported
    return replace(reported, output_tokens=guess.output_tokens, source=UsageSource.ESTIMATED)
