"""Dataclasses whose methods are compiled when they are first called, not when the class is made.

The standard library writes `__repr__`, `__eq__`, `__hash__` and what keeps a frozen object as it is as source text, for each class anew,
and compiles it. Few of them are ever called, and for the 250 classes that a server loads it is a sixth of the start. `__init__` is left as
it is. What is compiled is the library's own text, so nothing else differs.

    https://github.com/python/cpython/blob/3.11/Lib/dataclasses.py      `_create_fn`; from 3.13 on there is none, and nothing is changed
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

_COMPILE = "_create_fn"


@contextmanager
def late_methods() -> Iterator[None]:
    """For the classes that are made meanwhile."""
    compile_now = getattr(dataclasses, _COMPILE, None)
    if compile_now is None:
        yield
        return
    setattr(dataclasses, _COMPILE, partial(_method, compile_now))
    try:
        yield
    finally:
        setattr(dataclasses, _COMPILE, compile_now)


def _method(compile_now: Callable[..., Any], name: str, *text: Any, **names: Any) -> Callable[..., Any]:
    """A method that compiles itself, and is then no longer in the way."""
    if name == "__init__":
        return compile_now(name, *text, **names)  # type: ignore[no-any-return]
    made: Callable[..., Any] | None = None

    def method(self: Any, *rest: Any) -> Any:
        nonlocal made
        if made is None:
            made = compile_now(name, *text, **names)
            for kind in type(self).__mro__:
                if vars(kind).get(name) is method:
                    setattr(kind, name, made)
        return made(self, *rest)

    method.__name__ = name
    return method
