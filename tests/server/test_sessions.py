"""Sign-ins: they end by time, by signing out, and with the token that they were given for."""

from collections import OrderedDict
from itertools import count

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.server import sessions
from proxy.server.sessions import COOKIE, MAX_SESSIONS, SESSION_S, Sessions, clear_cookie, session_value, set_cookie

pytestmark = pytest.mark.unit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_session_lasts_twelve_hours() -> None:
    clock = Clock()
    made = Sessions(clock)
    value = made.begin("token").encode()
    assert len(value) >= 43  # 256 bits
    clock.now += SESSION_S - 0.001
    assert made.holds(value, "token")
    clock.now += 0.001
    assert not made.holds(value, "token")


def test_another_admin_token_ends_what_the_old_one_began() -> None:
    made = Sessions(Clock())
    value = made.begin("old").encode()
    assert not made.holds(value, "new")
    assert made.holds(value, "old")  # the file was put back


def test_the_value_itself_is_not_kept() -> None:
    made = Sessions(Clock())
    value = made.begin("token")
    assert value not in repr(made.__dict__)


@pytest.mark.parametrize("value", [None, b"", b"x", b"\xff" * 64])
def test_what_is_no_session_holds_nothing(value: bytes | None) -> None:
    made = Sessions(Clock())
    made.begin("token")
    assert not made.holds(value, "token")
    made.end(value)
    assert len(made) == 1


def test_no_more_are_open_than_may_be() -> None:
    made = Sessions(Clock())
    values = [made.begin("token").encode() for _ in range(MAX_SESSIONS + 1)]
    assert len(made) == MAX_SESSIONS
    assert not made.holds(values[0], "token")
    assert made.holds(values[1], "token")
    assert made.holds(values[-1], "token")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (None, None),
        (b"", None),
        (b"tollbridge_session=abc", b"abc"),
        (b"other=1; tollbridge_session=abc; more=2", b"abc"),
        (b"other=1;tollbridge_session=abc", b"abc"),
        (b"tollbridge_session=a=b", b"a=b"),
        (b"tollbridge_session=", b""),
        (b"xtollbridge_session=abc", None),
        (b"tollbridge_session", b""),
        (b"\xff=\xff; tollbridge_session=abc", b"abc"),
    ],
)
def test_our_cookie_among_others(header: bytes | None, value: bytes | None) -> None:
    assert session_value(header) == value


def test_the_cookie_is_for_this_site_s_pages_and_no_script() -> None:
    assert set_cookie("v", secure=True) == b"tollbridge_session=v; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"
    assert set_cookie("v", secure=False) == b"tollbridge_session=v; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"
    assert clear_cookie(secure=False) == b"tollbridge_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"
    assert session_value(set_cookie("v", secure=True).partition(b";")[0]) == b"v"
    assert COOKIE == "tollbridge_session"


class AgainstAModel(RuleBasedStateMachine):
    """The same, as a list of who is signed in with what until when."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        names = count()
        self.limit = 3
        self.real_limit = sessions.MAX_SESSIONS
        sessions.MAX_SESSIONS = self.limit
        self.made = Sessions(self.clock, lambda: f"value-{next(names)}")
        self.open: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self.seen: list[str] = []

    def teardown(self) -> None:
        sessions.MAX_SESSIONS = self.real_limit

    @rule(token=st.sampled_from(["one", "two"]))
    def begin(self, token: str) -> None:
        value = self.made.begin(token)
        self.open = OrderedDict((key, one) for key, one in self.open.items() if one[1] > self.clock.now)
        while len(self.open) >= self.limit:
            self.open.popitem(last=False)
        self.open[value] = (token, self.clock.now + SESSION_S)
        self.seen.append(value)

    @rule(pick=st.integers(0, 50))
    def end(self, pick: int) -> None:
        if self.seen:
            value = self.seen[pick % len(self.seen)]
            self.made.end(value.encode())
            self.open.pop(value, None)

    @rule()
    def end_all(self) -> None:
        self.made.end_all()
        self.open.clear()

    @rule(seconds=st.sampled_from([1.0, SESSION_S / 2, SESSION_S]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def who_is_in_is_in(self) -> None:
        for value in self.seen:
            for token in ("one", "two"):
                expected = value in self.open and self.open[value][0] == token and self.open[value][1] > self.clock.now
                assert self.made.holds(value.encode(), token) == expected
        assert len(self.made) <= self.limit


TestAgainstAModel = pytest.mark.property(AgainstAModel.TestCase)
