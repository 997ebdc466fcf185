"""Names that nobody has heard of: models, paths, users, tags. None of them may become a series of the metrics.

A few of each kind come first, so that what a refusal adds once (its reason, its chain) is there before the rest is counted.
"""

from __future__ import annotations

from collections import Counter
from urllib.parse import quote

from tests.bench.load import request_bytes
from tests.soak.stage import CANARIES, Caller, Check, Stage, all_of, alone, each

_NAMES, _NAMES_SHORT = 100_000, 600
_FIRST = 96  # each oddity twice in each place
_CLIENTS = 32
_PLACES = ("model", "path", "user", "tag")
_ODDITIES = ("", "é", "日本", "\u202e", "a" * 240, '"}', "{x=1}", "\u0007", "%00", "../..", "mock/", "*")


async def act(stage: Stage) -> list[Check]:
    wanted = stage.options.of(_NAMES, _NAMES_SHORT)
    statuses: Counter[tuple[str, int]] = Counter()

    async def ask(caller: Caller, number: int) -> None:
        connection = await caller.connected()
        connection.send(_request(stage.port, number))
        statuses[_PLACES[number % 4], (await caller.answer()).status] += 1

    await each(iter(range(_FIRST)), 1, stage.port, ask)
    first, first_mib = _series(stage), stage.rss_mib()
    await each(iter(range(_FIRST, wanted + _FIRST)), _CLIENTS, stage.port, ask)
    last, last_mib = _series(stage), stage.rss_mib()
    # of the models, those of the form provider/model go there, and the provider does not know them either: that is a 502
    expected = {("model", 404), ("model", 502), ("path", 404), ("user", 200), ("tag", 200)}
    return [
        Check("answers", ", ".join(f"{place} {status}: {count:,}" for (place, status), count in sorted(statuses.items()))),
        all_of("names, each answered as it should be", sum(statuses[key] for key in expected), wanted + _FIRST),
        Check("new series", ", ".join(sorted(last - first)) or "0", "0", last <= first),
        Check("series", f"{len(last):,}"),
        Check("resident memory, growth: caches, each of which is bounded", f"{last_mib - first_mib:,.1f} MiB"),
    ]


def _series(stage: Stage) -> set[str]:
    """But for those that come with the first check of a provider and the first alert, whenever that is."""
    return {name for name in stage.metrics() if not name.startswith(("tollbridge_provider_check_", "tollbridge_alert"))}


def _request(port: int, number: int) -> bytes:
    """By turns a model, a path, a user and tags of a request that is answered."""
    odd = _ODDITIES[number // 4 % len(_ODDITIES)]
    name = f"{odd}n{number}"
    body = {"model": "whole", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    headers: tuple[str, ...] = ()
    match _PLACES[number % 4]:
        case "model":
            body["model"] = name
        case "path":
            return f"GET /v1/{quote(name)}/{number} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{_bearer()}\r\n\r\n".encode()
        case "user":
            body["user"] = name
            body["metadata"] = {"department": name, "agent": name, "task": name, f"k{number}": name}
        case _:
            tags = [f"x-tollbridge-{tag}: {quote(name)[:100]}" for tag in ("department", "agent", "task", "task-id", "prefer")]
            headers = (*tags, f"x-{number}: {number}")
    return request_bytes(body, port=port, headers=headers, key=CANARIES.client_key)


def _bearer() -> str:
    return f"authorization: Bearer {CANARIES.client_key}"


run = alone(act)
