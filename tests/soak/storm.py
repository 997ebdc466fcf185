"""Everything fails, and the callers are OpenAI's own SDK at its defaults, which tries three times unless it is told not to.

Twice: as anybody runs it, where the circuit opens; and with a circuit that never does, where only the budget of retries is left.
"""

from __future__ import annotations

import time
from collections import Counter

import httpx2
import openai

from tests.bench.load import chat_body
from tests.soak.stage import CANARIES, Check, Stage, all_of, alone, at_most, paced

_RATE, _RATE_SHORT = 200.0, 50.0
_SECONDS, _SECONDS_SHORT = 30.0, 1.0


async def act(stage: Stage) -> list[Check]:
    rate = _RATE_SHORT if stage.options.short else _RATE
    seconds = _SECONDS_SHORT if stage.options.short else _SECONDS
    found: list[Check] = []
    for title, model in (("circuit as it comes", "storm"), ("circuit never opens", "storm-closed")):
        before, began = stage.counts()["requests"], time.monotonic()
        statuses, sent = await _storm(stage, model, rate, seconds)
        # the budget of retries begins with one, and gets one each second, which matters where there are few requests
        granted = 1 + (time.monotonic() - began if stage.options.short else 0)
        calls = stage.counts()["requests"] - before
        asked = sum(statuses.values())
        found += [
            Check(f"{title}: calls of the SDK", f"{asked:,}"),
            Check(f"{title}: answers", ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))),
            all_of(f"{title}: requests that the SDK sent", sent, asked),
            at_most(f"{title}: calls upstream, each", (calls - granted) / asked, 1.3, "calls"),
        ]
    return found


async def _storm(stage: Stage, model: str, rate: float, seconds: float) -> tuple[Counter[int], int]:
    """(statuses that the SDK raised, requests that it sent)."""
    statuses: Counter[int] = Counter()
    sent = 0

    async def count(_: httpx2.Request) -> None:
        nonlocal sent
        sent += 1

    async with openai.AsyncOpenAI(
        api_key=CANARIES.client_key,
        base_url=f"http://127.0.0.1:{stage.port}/v1",
        http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [count]}),
    ) as client:
        messages = chat_body(model, stream=False, prompt_bytes=100)["messages"]

        async def ask(number: int) -> None:
            try:
                await client.chat.completions.create(model=model, messages=messages, user=f"s{number}")
                statuses[200] += 1
            except openai.APIStatusError as error:
                CANARIES.look("an error of the SDK", repr(error).encode() + error.response.content)
                statuses[error.status_code] += 1
            except openai.APIConnectionError:
                statuses[0] += 1

        await paced(rate, seconds, ask)
    return statuses, sent


run = alone(act)
