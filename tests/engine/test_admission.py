"""Who may ask for what, and which targets can serve it: before anything is sent."""

from typing import Any

import orjson
import pytest

from proxy.accounting.records import Rejected
from proxy.config.settings import ClientSettings
from proxy.core.chat import ChatRequest
from proxy.core.errors import CannotCarry
from proxy.core.target import Quirks, Target
from proxy.dialects.base import OutboundRequest
from tests.engine.harness import (
    World,
    called,
    dialect_of,
    order,
    refusal,
    target,
    whole,
    world,
)

pytestmark = [pytest.mark.unit, pytest.mark.anyio]


async def test_a_model_that_means_nothing_is_a_404_and_a_row() -> None:
    around = world(a=whole())
    served = await around.serve(model="nothing")
    assert (served.sink.status, served.code) == (404, "model_not_found")
    (record,) = around.journal.records
    assert isinstance(record, Rejected)
    assert (record.request.model, record.request.chain, record.end.outcome) == ("nothing", None, "rejected")
    assert around.meter.ended == [("none", "rejected", False)]


async def test_a_key_where_the_model_belongs_goes_to_nobody_and_into_no_row() -> None:
    around = world(a=whole())
    served = await around.serve(model="a-loaded-secret-fake")
    assert (served.sink.status, served.code) == (404, "model_not_found")
    (record,) = around.journal.records
    assert isinstance(record, Rejected)
    assert record.request.model == "a-***"
    assert b"loaded-secret-fake" not in bytes(served.sink.body)


async def test_a_client_may_use_only_its_chains() -> None:
    around = world(a=whole())
    served = await around.serve(client=ClientSettings("c", frozenset(), chains=frozenset(("other",))))
    assert (served.sink.status, served.code) == (403, "model_not_allowed")
    assert called(around) == []
    assert (await around.serve(client=ClientSettings("c", frozenset(), chains=frozenset(("smart",))))).sink.status == 200


async def test_a_feature_that_no_target_has_is_a_400_and_one_that_some_lack_is_a_skip() -> None:
    plain = target("a", capabilities=frozenset())
    around = world(plain, a=whole())
    served = await around.serve(tools=[{"type": "function"}])
    assert (served.sink.status, served.code) == (400, "unsupported_feature")
    assert around.end.outcome == "rejected"
    around = world(plain, target("b"), a=whole(), b=whole())
    await around.serve(tools=[{"type": "function"}])
    assert called(around) == ["b"]
    assert around.end.trace[0] == {"target": "a/a-model", "skipped": "lacks tools"}


class Wordless:
    """A dialect that has no words for audio, and none for the knob `user`."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def encode_request(self, request: ChatRequest, target: Target) -> OutboundRequest:
        if "audio" in request.body:
            raise CannotCarry("audio", param="audio")
        found: OutboundRequest = self._inner.encode_request(request, target)
        found.dropped = ("user",) if "user" in request.body else ()
        return found


def wordless(*targets: Target, **options: Any) -> World:
    around = world(*targets, **options)
    outbound: Any = around.services.outbound
    outbound["wordless"] = Wordless(outbound["openai"])
    return around


async def test_a_target_whose_format_cannot_carry_a_feature_is_passed_over_with_that_reason() -> None:
    around = wordless(dialect_of("a", "wordless"), target("b"), a=whole(), b=whole())
    served = await around.serve(audio={})
    assert (served.sink.status, called(around)) == (200, ["b"])
    assert {"target": "a/a-model", "skipped": "cannot carry audio"} in around.end.trace
    assert all(one.in_flight == 0 for one in around.services.deployments.snapshot(0))


async def test_a_feature_that_no_target_can_carry_is_a_400_that_names_its_place() -> None:
    around = wordless(dialect_of("a", "wordless"), a=whole())
    served = await around.serve(audio={})
    assert (served.sink.status, served.code, called(around)) == (400, "unsupported_feature", [])
    assert around.end.outcome == "rejected"
    assert orjson.loads(served.sink.body)["error"]["param"] == "audio"


async def test_after_a_failure_the_failure_is_told_and_not_what_the_rest_could_not_carry() -> None:
    around = wordless(target("a"), dialect_of("b", "wordless"), a=refusal(500), b=whole())
    served = await around.serve(audio={})
    assert (served.sink.status, called(around)) == (502, ["a"])


async def test_a_strict_chain_passes_over_who_would_drop_something() -> None:
    around = wordless(dialect_of("a", "wordless"), target("b"), a=whole(), b=whole(), chain={"strict": True})
    await around.serve(user="u")
    assert called(around) == ["b"]
    assert {"target": "a/a-model", "skipped": "cannot carry user"} in around.end.trace


async def test_a_provider_that_signs_is_called_with_what_the_authorizer_says() -> None:
    around = world(target("a", provider={"signs": True}), a=whole())
    await around.serve()
    (call,) = around.upstream.calls
    assert call.authorization == b"signed %d" % len(orjson.dumps(call.body))


async def test_without_credentials_to_sign_with_the_next_target_answers() -> None:
    around = world(target("a", keys=0, provider={"signs": True}), target("b"), a=whole(), b=whole())
    served = await around.serve()
    assert (served.sink.status, called(around)) == (200, ["b"])
    assert around.meter.attempts == [("a", "auth"), ("b", "ok")]


async def test_a_target_that_refuses_a_parameter_is_skipped_and_named() -> None:
    around = world(target("a", quirks=Quirks(refuse=frozenset(("logit_bias", "n")))), target("b"), a=whole(), b=whole())
    await around.serve(logit_bias={"1": 1}, n=1)
    assert called(around) == ["b"]
    assert around.end.trace == [{"target": "a/a-model", "skipped": "refuses logit_bias"}, {"target": "b/b-model", "kept": True}]
    await around.serve(n=1)
    assert called(around) == ["b", "a"]


@pytest.mark.parametrize(("strict", "who"), [(False, "a"), (True, "b")])
async def test_what_is_dropped_is_named_and_on_a_strict_chain_it_is_a_reason_to_skip(strict: bool, who: str) -> None:
    around = world(
        target("a", quirks=Quirks(drop=frozenset(("user",)))), target("b"), a=whole(), b=whole(), chain={"strict": strict}
    )
    served = await around.serve(user="u")
    assert called(around) == [who]
    assert served.sink.headers.get(b"x-tollbridge-dropped") == (None if strict else b"user")
    assert around.end.dropped == ([] if strict else ["user"])


async def test_nothing_usable_is_a_503_at_once_with_a_row_and_the_reasons() -> None:
    around = world(target("a", provider={"disabled": "no key: set A_API_KEY"}), a=whole())
    served = await around.serve()
    assert (served.sink.status, served.code) == (503, "all_providers_unavailable")
    assert "no key: set A_API_KEY" in served.answer["error"]["message"]
    assert (order(around), around.end.outcome) == (["R", "respond"], "failed")
    assert around.meter.counts == ["chain_exhausted"]
    around.check_books()


async def test_a_short_cooldown_is_waited_for_when_there_is_nothing_else() -> None:
    around = world(target("a", retries=0), a=[refusal(429, headers=((b"retry-after", b"1"),)), whole()])
    assert (await around.serve()).sink.status == 429
    assert (await around.serve()).sink.status == 200
    assert around.slept == [1.0]
