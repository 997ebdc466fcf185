"""Dataclasses whose methods are compiled late behave as any other does."""

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Any

import pytest

from proxy.core.late_methods import late_methods

pytestmark = pytest.mark.unit

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
    with late_methods():
        return make(options)


def outcome(what: Callable[..., Any], *operands: Any) -> Any:
    """What comes of it: two classes of one name are to do the same."""
    try:
        return what(*operands)
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
    with late_methods():

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


def test_classes_that_are_made_afterwards_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    before = vars(dataclasses).copy()
    with pytest.raises(ZeroDivisionError), late_methods():
        1 / 0  # noqa: B018 - whatever ends it
    assert vars(dataclasses) == before
    monkeypatch.delattr(dataclasses, "_create_fn", raising=False)
    known = vars(dataclasses).copy()
    with late_methods():
        assert vars(dataclasses) == known
