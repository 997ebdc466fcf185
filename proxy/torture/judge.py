"""Is that what was due? From a reply and what the upstream counted to the reasons why a case is lost; none means that it is won."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from proxy.torture.caller import CANARY, Reply
from proxy.torture.scenarios import TEXT, Case, Mistake, Scenario

MAX_ASKED = 3  # requests to the upstream for one of the caller's: the first and two retries
LET_GO_S = 2.0  # until an upstream is let go whose caller has left
MAX_WAIT_S = 3600.0  # a wait that a caller can still make sense of
HOSTNAME = b"secret-hostname"  # stands in the upstream's own pages


@dataclass(frozen=True, slots=True)
class Counted:
    """What the upstream knows of a case. `keys`: those of the gateway's, which the caller may never see."""

    asked: int = 0
    strays: int = 0
    keys: frozenset[str] = frozenset()


def faults(case: Case, reply: Reply, counted: Counted) -> list[str]:
    return [*_always(reply, counted), *(_backed(case, reply) if case.group == "failover" else _alone(case, reply, counted))]


def seen(reply: Reply) -> str:
    """In a few words."""
    if reply.hung and not reply.status:
        return "nothing"
    if not reply.status:
        return "a hang-up"
    words = [str(reply.status)]
    if reply.error is not None:
        code = reply.error.get("code") or reply.error.get("type")
        words.append(f"an error{f' ({code})' if code else ''}")
    elif reply.text:
        words.append("text")
    if reply.is_stream and reply.done:
        words.append("[DONE]")
    if reply.hung:
        words.append("no end")
    elif not reply.whole:
        words.append("cut off")
    return ", ".join(words)


def _always(reply: Reply, counted: Counted) -> Iterator[str]:
    if reply.hung:
        yield f"it was not over after {reply.ended_s:.0f} s"
    elif not reply.status:
        yield "hung up without an answer"
    head = str(reply.headers)
    if any(key in head or key.encode() in reply.body for key in counted.keys):
        yield "the gateway's own key is in the answer"
    if HOSTNAME in reply.body or b"<html" in reply.body:
        yield "the upstream's own page is in the answer"
    if counted.strays:
        yield "it followed the redirect"
    if counted.asked > MAX_ASKED:
        yield f"the upstream was asked {counted.asked} times for one request"


def _backed(case: Case, reply: Reply) -> Iterator[str]:
    if reply.status and reply.status != 200:
        yield f"answered {reply.status}, though another target was there"
    elif reply.status:
        yield from _whole_answer(case, reply, TEXT)


def _alone(case: Case, reply: Reply, counted: Counted) -> Iterator[str]:
    scenario, status = case.scenario, reply.status
    if not status:
        return
    match scenario.due:
        case "answer":
            if status == 200:
                yield from _whole_answer(case, reply, scenario.text)
            else:
                yield f"answered {status}, though the answer was good"
        case "broken":
            yield from _broken(reply)
        case "fault":
            yield from _error(reply, 500 <= status < 600)
        case "timeout":
            yield from _error(reply, status == 408 or 500 <= status < 600)
        case "busy":
            yield from _error(reply, status == 429 or 500 <= status < 600)
        case "limit":
            yield from _error(reply, status == 429)
            yield from _wait(scenario, reply)
        case "callers":
            yield from _error(reply, status in scenario.statuses)
            if counted.asked > 1:
                yield f"asked {counted.asked} times, though it was the request that was wrong"


def _whole_answer(case: Case, reply: Reply, text: str | None) -> Iterator[str]:
    if reply.error is not None:
        yield "an error, though there was an answer"
        return
    if not reply.whole and not reply.hung:
        yield "the answer is cut off"
    said = reply.text.replace("\ufffd", "")
    if text is not None and said != text and not (said == "" and reply.text):
        yield f"the text is {said[:60]!r} and not {text!r}"
    if not reply.finished:
        yield "there is no finish reason"
    if (case.kind == "stream") != reply.is_stream:
        yield "a stream was asked for and one body came" if case.kind == "stream" else "one body was asked for and a stream came"
    elif reply.is_stream and (reply.done != 1 or reply.payloads[-1] != "[DONE]"):
        yield f"{reply.done} end marks, or not at the end"


def _broken(reply: Reply) -> Iterator[str]:
    if reply.status != 200:
        yield from _error(reply, 500 <= reply.status < 600)  # it was not passed on at once, and that is told
        return
    if not reply.text.startswith("Hello"):
        yield "the text that had come was not passed on"
    if reply.done:
        yield "[DONE] after an answer that broke off"
    elif reply.whole and reply.error is None:
        yield "it ends as if it were whole"


def _error(reply: Reply, right: bool) -> Iterator[str]:
    if reply.status == 200 and reply.error is not None:
        yield "200 with an error in it, though nothing had been sent yet"
    elif reply.status == 200:
        yield "a clean 200 for an answer that is none" if reply.whole else "200, and a break, though nothing had been sent yet"
    elif not right:
        yield f"{reply.status} is the wrong status"
    elif not isinstance((reply.error or {}).get("message"), str):
        yield "the error is not in OpenAI's shape"


def _wait(scenario: Scenario, reply: Reply) -> Iterator[str]:
    sent = reply.headers.get("retry-after")
    wait_s = _seconds(sent, reply) if sent is not None else None
    if wait_s is not None and not 0 <= wait_s <= MAX_WAIT_S:
        yield f"retry-after is {(sent or '')[:40]!r}"
    elif scenario.wait_s is not None and (wait_s is None or abs(wait_s - scenario.wait_s) > 1 + scenario.wait_s / 2):
        yield f"retry-after is {sent or 'missing'}, and {scenario.wait_s:g} s were asked for"


def _seconds(sent: str, reply: Reply) -> float:
    """Of a `retry-after`, by the answer's own clock where it is a date; -1 if it says nothing."""
    try:
        return float(reply.headers["retry-after-ms"]) / 1000 if "retry-after-ms" in reply.headers else float(sent)
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(reply.headers["date"])
        return (parsedate_to_datetime(sent) - date).total_seconds()
    except (KeyError, ValueError, TypeError):
        return -1.0


def leaving_faults(hung_up_s: float | None) -> list[str]:
    """`hung_up_s`: how long after the caller left the upstream was let go, None for never."""
    if hung_up_s is None:
        return ["the upstream was never let go: its answer is paid for, and nobody reads it"]
    return [] if hung_up_s <= LET_GO_S else [f"the upstream was let go after {hung_up_s:.1f} s"]


def mistake_faults(mistake: Mistake, reply: Reply, counted: Counted) -> list[str]:
    found = []
    if reply.hung:
        found.append(f"it was not over after {reply.ended_s:.0f} s")
    elif mistake.served and reply.status == 200:
        pass
    elif reply.status not in mistake.statuses:
        found.append(f"{reply.status} is the wrong status" if reply.status else "hung up without an answer")
    if counted.asked and not mistake.served:
        found.append("the upstream was asked")
    if counted.strays:
        found.append("the address in the body was asked")
    return found


def passed_on(headers: Sequence[Mapping[str, str]], key: str | None) -> list[str]:
    """What of the caller's own reached the upstream. `headers`: as it received them."""
    found = []
    if any(CANARY in value for sent in headers for value in sent.values()):
        found.append("the caller's cookie was passed on")
    if key and any(key in value for sent in headers for value in sent.values()):
        found.append("the caller's key was passed on")
    return found
