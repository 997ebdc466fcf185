"""What a start leaves for later: code that is loaded with what the server needs, and that hardly anybody runs.

**Methods of dataclasses.** `__init__`, `__repr__`, `__eq__`, `__hash__` and what keeps a frozen object as it is are written as source text
and compiled, for each class anew. Of half of the 250 classes that a server loads there is no object when it is ready. Until such a method
is called there is one in its place that compiles it; till then a class does not tell the parameters of its `__init__`.

**Annotations that are text.** `typing` compiles each of them into an expression, a thousand in the packages that are loaded, for `eval`,
which takes the text as well; and few are ever evaluated.

**Modules that packages import and do not use**, not as this server uses the packages.

    https://github.com/python/cpython/blob/3.11/Lib/dataclasses.py      `_create_fn`; from 3.13 on there is none, and nothing is changed
    https://github.com/python/cpython/blob/3.11/Lib/typing.py           `ForwardRef`; from 3.14 on nothing is compiled there
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

_COMPILE_METHOD = "_create_fn"
_COMPILE_ANNOTATION = "compile"  # a builtin, unless the module has one of its own
CALLED = ""

# Module -> what is taken from it all the same, and the module that this is from; CALLED is a function, which is there when it is called.
UNUSED: Mapping[str, Mapping[str, str]] = {
    "anyio": {},  # Starlette's files, threads and task groups
    "anyio.abc": {},
    "anyio.to_thread": {},
    "html": {},  # Starlette's page for a fault, in debug mode
    "http.client": {},  # the texts of status codes
    "http.cookies": {},  # the dashboard's
    "importlib.metadata": {"entry_points": CALLED},  # pydantic's plugins
    "logging.config": {},  # uvicorn's log
    "uvicorn": {"Config": "uvicorn.config", "Server": "uvicorn.server"},  # its command line and its own supervisor
}


def leave_unused_modules() -> None:
    """Once, before anything imports them."""
    # pydantic would look for some in what is installed, one file after the other
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for name, taken in UNUSED.items():
        leave_module(name, taken)


def leave_module(name: str, taken: Mapping[str, str]) -> None:
    """From now on whoever imports the module gets one that is empty: its own code runs when something is asked of it that is neither in
    `taken` nor a module in it. What is loaded stays, and what is not installed is left to the import that fails. Not by
    `importlib.util.LazyLoader`: an import has that run the code."""
    if name in sys.modules:
        return
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # nor is the package that it would be in
        spec = None
    if spec is None:
        return
    empty = sys.modules[name] = module_from_spec(spec)
    lock = threading.Lock()
    parent, _, child = name.rpartition(".")

    def load() -> Any:
        with lock:
            if sys.modules.get(name) is empty:
                del sys.modules[name]
        whole = import_module(name)
        for known, module in list(vars(empty).items()):
            if sys.modules.get(f"{name}.{known}") is module is not None:
                vars(whole).setdefault(known, module)
        return whole

    def call(wanted: str, *given: Any, **named: Any) -> Any:
        return getattr(load(), wanted)(*given, **named)

    def find(wanted: str) -> Any:
        match taken.get(wanted):
            case None:
                return getattr(load(), wanted)
            case "":  # CALLED
                return partial(call, wanted)
            case place:
                return getattr(import_module(place), wanted)

    vars(empty)["__getattr__"] = find
    if parent:
        setattr(sys.modules[parent], child, empty)


@contextmanager
def late_compiling() -> Iterator[None]:
    """For the modules that are loaded meanwhile."""
    compile_now = getattr(dataclasses, _COMPILE_METHOD, None)
    if compile_now is not None:
        setattr(dataclasses, _COMPILE_METHOD, partial(_method, compile_now))
    setattr(typing, _COMPILE_ANNOTATION, _as_it_is)
    try:
        yield
    finally:
        delattr(typing, _COMPILE_ANNOTATION)
        if compile_now is not None:
            setattr(dataclasses, _COMPILE_METHOD, compile_now)


def _as_it_is(text: str, *_: Any) -> str:
    return text


def _method(compile_now: Callable[..., Any], name: str, *text: Any, **names: Any) -> Callable[..., Any]:
    """A method that compiles itself, and is then no longer in the way."""
    made: Callable[..., Any] | None = None

    def method(self: Any, *rest: Any, **by_name: Any) -> Any:
        nonlocal made
        if made is None:
            made = compile_now(name, *text, **names)
            made.__qualname__ = method.__qualname__
            for kind in type(self).__mro__:
                if vars(kind).get(name) is method:
                    setattr(kind, name, made)
        return made(self, *rest, **by_name)

    method.__name__ = name
    return method
