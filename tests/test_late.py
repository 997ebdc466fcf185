"""What a start leaves for later behaves as if it had not: methods of dataclasses, annotations, modules."""

import dataclasses
import email
import operator
import subprocess
import sys
import typing
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, replace
from pathlib import Path
from typing import Any, ForwardRef, TypedDict

import pytest

from proxy.late import UNUSED, late_compiling, leave_module

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
OPTIONS: tuple[dict[str, bool], ...] = (
    {},
    {"slots": True},
    {"frozen": True},
    {"frozen": True, "slots": True},
    {"frozen": True, "slots": True, "order": True},
    {"eq": False, "slots": True},
    {"repr": False, "unsafe_hash": True},
)


def make(options: dict[str, bool]) -> type[Any]:
    @dataclass(**options)  # type: ignore[call-overload, untyped-decorator, unused-ignore]
    class Pair:
        left: int
        right: Any = None
        hidden: int = field(default=0, repr=False)
        apart: int = field(default=0, compare=False)

    return Pair


def make_late(options: dict[str, bool]) -> type[Any]:
    with late_compiling():
        return make(options)


def outcome(what: Callable[..., Any], *operands: Any, **named: Any) -> Any:
    """What comes of it: two classes of one name are to do the same."""
    try:
        return what(*operands, **named)
    except (TypeError, AttributeError, FrozenInstanceError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
def test_each_method_does_what_a_compiled_one_does(options: dict[str, bool]) -> None:
    plain, late = make(options), make_late(options)
    assert late(1, 2) != 1
    for _ in range(2):  # when it is compiled, and after
        pairs = [(kind(1, "a"), kind(1, "a", 0, 5), kind(2, "b"), kind(1, "a", 7)) for kind in (plain, late)]
        shown, compared, hashed, ordered = ([] for _ in range(4))
        for one, same, other, hidden in pairs:
            if options.get("repr", True):
                shown.append([repr(one), repr(hidden)])
            compared.append([one == same, one == other, one == hidden, one != same])
            if options.get("eq", True):
                hashed.append([outcome(hash, one), outcome(hash, same)])
            ordered.append([outcome(operator.lt, one, other), outcome(operator.ge, one, same)])
        for found in (shown, compared, hashed, ordered):
            assert not found or found[0] == found[1]


def made_with_all() -> type[Any]:
    @dataclass
    class Base:
        a: int
        b: list[int] = field(default_factory=list)
        c: dataclasses.InitVar[int] = 3
        d: int = field(default=4, kw_only=True)
        e: int = field(init=False, default=5)

        def __post_init__(self, c: int) -> None:
            self.e += c

    @dataclass(slots=True)
    class Child(Base):
        f: int = 6

    class Grandchild(Child):
        def __init__(self, a: int, *given: Any, **named: Any) -> None:
            super().__init__(a * 2, *given, **named)

    return Grandchild


CALLS: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = (
    ((1,), {}),
    ((1, [2]), {"d": 7}),
    ((1, [2], 3, 8), {}),
    ((), {"a": 1, "c": 9, "f": 0}),
    ((), {}),
    ((1,), {"a": 2}),
    ((1,), {"e": 2}),
    ((1, [2], 3, 8, 4), {}),
)


def test_an_object_is_made_as_by_a_compiled_class() -> None:
    plain = made_with_all()
    for first in CALLS:  # each of them as the first call that there is
        with late_compiling():
            late = made_with_all()
        for given, named in (first, *CALLS):
            made = [outcome(kind, *given, **named) for kind in (plain, late)]
            assert vars_of(made[0]) == vars_of(made[1])


def vars_of(made: Any) -> Any:
    """An object by its fields, an error by its words."""
    return dataclasses.asdict(made) if dataclasses.is_dataclass(made) and not isinstance(made, type) else made


@pytest.mark.parametrize("slots", [False, True])
def test_what_is_frozen_stays_as_it_is(slots: bool) -> None:
    late = make_late({"frozen": True, "slots": slots})
    one = late(1)
    for _ in range(2):
        with pytest.raises(FrozenInstanceError, match="cannot assign to field 'left'"):
            one.left = 2
        with pytest.raises(FrozenInstanceError, match="cannot delete field 'left'"):
            del one.left
    assert replace(one, left=3) == late(3)


def test_a_subclass_and_its_parent_keep_their_own() -> None:
    with late_compiling():

        @dataclass(frozen=True)
        class Parent:
            a: int

        @dataclass(frozen=True)
        class Child(Parent):
            b: int

        class Plain(Parent):
            pass

    assert repr(Plain(1)).endswith("Plain(a=1)")
    assert Plain(1) != Parent(1)
    assert repr(Child(1, 2)).endswith("Child(a=1, b=2)")
    assert (Parent(1) == Parent(1), Child(1, 2) == Child(1, 2), Child(1, 2) == Child(1, 3)) == (True, True, False)
    assert len({Parent(1), Parent(1), Child(1, 2)}) == 2


def test_an_object_that_holds_itself_is_still_shown() -> None:
    late = make_late({})
    one = late(1)
    one.right = one
    assert repr(one).endswith("Pair(left=1, right=..., apart=0)")


@pytest.mark.skipif(not hasattr(dataclasses, "_create_fn"), reason="this release of Python compiles a class's methods in one go")
def test_once_called_a_method_is_the_compiled_one() -> None:
    late = make_late({"frozen": True})

    class Child(late):  # type: ignore[misc, valid-type]
        pass

    waiting = late.__eq__
    assert Child(1) == Child(1)
    assert late.__eq__ is not waiting
    assert late.__eq__.__closure__ is None


def test_annotations_that_were_left_as_text_are_read_when_they_are_asked_for() -> None:
    with late_compiling():
        told = TypedDict("told", {"here": "list[Path] | None", "there": "OnlyLater", "broken": "list["})  # type: ignore[valid-type, name-defined] # noqa: F821, F722, UP013
    assert told.__annotations__["there"] == ForwardRef("OnlyLater", module=__name__)
    del told.__annotations__["broken"]
    assert typing.get_type_hints(told, localns={"OnlyLater": int}) == {"here": list[Path] | None, "there": int}
    with pytest.raises(SyntaxError):
        ForwardRef("list[")


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


FACADES = """
import sys
from proxy.late import UNUSED, leave_unused_modules
leave_unused_modules()
def left():
    return sorted(name for name in UNUSED if getattr(vars(sys.modules[name]).get("__getattr__"), "__module__", "") == "proxy.late")
import anyio.to_thread, html, http.client, logging.config, uvicorn, uvicorn.lifespan.on
from http import cookies
from importlib.metadata import entry_points
from uvicorn import Config, Server
assert Config.__module__ == "uvicorn.config" and Server.__module__ == "uvicorn.server"
assert left() == sorted(UNUSED), left()
"""


def test_a_module_that_is_left_out_is_loaded_by_whoever_asks_for_something_in_it() -> None:
    run(
        FACADES
        + """
lifespan = uvicorn.lifespan.on
known = html, http.client, cookies, logging.config, uvicorn
assert html.escape("<") == "&lt;" and http.client.responses[404] == "Not Found" and cookies.SimpleCookie("a=b")["a"].value == "b"
assert logging.config.dictConfig.__module__ == "logging.config"
assert [one.name for one in entry_points(group="no such group")] == []
assert uvicorn.run.__module__ == "uvicorn.main" and uvicorn.__version__
async def main():
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, print, "ran in a thread")
import anyio
anyio.run(main)
assert left() == [], left()
import html, uvicorn, uvicorn.lifespan.on  # the whole ones now, with all that was in the others
assert html is not known[0] and html.escape is known[0].escape
assert uvicorn is not known[-1] and uvicorn.lifespan.on is lifespan and uvicorn.Config is Config
try:
    html.nothing_of_the_kind
except AttributeError as error:
    print(error)
"""
    )


def test_what_is_loaded_and_what_is_not_there_are_left_as_they_are() -> None:
    assert email.__path__
    before = dict(sys.modules)
    for name in ("dataclasses", "no_such_package", "no_such_package.module", "email.no_such_module"):
        leave_module(name, {})
    assert {name: module for name, module in sys.modules.items() if before.get(name) is not module} == {}


def test_whoever_asks_at_the_same_time_gets_the_same() -> None:
    run(
        FACADES
        + """
import threading
found, all_there = [], threading.Barrier(8)
def ask():
    all_there.wait()
    found.append(http.client.HTTPConnection)
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(set(found)) == 1 and len(found) == 8
"""
    )


def test_what_is_left_out_is_there() -> None:
    """A release of these packages that has no such module, or another in its place, would be noticed by nobody else."""
    run("".join(f"import {name}\n" for name in UNUSED))


def test_classes_that_are_made_afterwards_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    before = vars(dataclasses).copy()
    before_typing = vars(typing).copy()
    with pytest.raises(ZeroDivisionError), late_compiling():
        1 / 0  # noqa: B018 - whatever ends it
    assert vars(dataclasses) == before
    assert vars(typing) == before_typing
    monkeypatch.delattr(dataclasses, "_create_fn", raising=False)
    known = vars(dataclasses).copy()
    with late_compiling():
        assert vars(dataclasses) == known
