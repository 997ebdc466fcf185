"""The wire formats by name: every one that a file may name is there, each made once and not before it is asked for."""

from typing import get_args

import pytest

from proxy.config.schema import Dialect
from proxy.dialects.base import OutboundDialect
from proxy.engine.formats import Formats, chats, embedders, load_formats

pytestmark = pytest.mark.unit

NO_EMBEDDINGS = {"anthropic"}


@pytest.mark.parametrize("name", [*get_args(Dialect), "static"])
def test_every_dialect_of_the_configuration_is_there(name: str) -> None:
    assert callable(chats()[name].encode_request)


@pytest.mark.parametrize("name", get_args(Dialect))
def test_embeddings_are_there_but_for_who_has_none(name: str) -> None:
    if name in NO_EMBEDDINGS:
        with pytest.raises(KeyError):
            embedders()[name]
    else:
        assert callable(embedders()[name].encode_request)


def test_a_format_is_made_once_and_not_before_it_is_asked_for() -> None:
    made: list[OutboundDialect] = []

    def make() -> OutboundDialect:
        made.append(chats()["openai"])
        return made[-1]

    formats = Formats({"one": make, "two": make})
    assert made == []
    assert formats["one"] is formats["one"] is made[0]
    assert len(made) == 1


def test_formats_are_loaded_by_name_and_unknown_names_passed_over() -> None:
    load_formats(["ollama", "static", "nobody"])
