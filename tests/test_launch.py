"""The way in: which command lines `serve` reads without the library for them, and that it reads them as that does."""

import ast
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main

from proxy import launch
from proxy.cli import app
from proxy.launch import ServeOptions, plain_options

pytestmark = pytest.mark.unit

NOTHING = ServeOptions(config=None, host=None, port=None, workers=1, data_dir=None, env_file=None, log_level=None)


def declared() -> click.Command:
    """`serve` as the command line declares it."""
    group: Any = typer.main.get_command(app)
    command: click.Command = group.commands["serve"]
    return command


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--config a.yaml --port 0 --workers 64",
        "-c a.yaml --host=::1 --port=65535",
        "--data-dir d --env-file .env --log-level WARNING",
        "--port 1 --port 2 --host a=b",
    ],
)
def test_a_plain_line_means_what_the_command_line_takes_it_for(line: str) -> None:
    found = plain_options(line.split())
    assert found is not None
    read = declared().make_context("serve", line.split()).params
    if read["log_level"] is not None:
        read["log_level"] = read["log_level"].lower()
    assert {name: None if value is None else str(value) for name, value in read.items()} == {
        name: None if value is None else str(value) for name, value in found.items()
    }


def test_nothing_said_is_nothing_given() -> None:
    assert plain_options([]) == NOTHING


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "-h",
        "--verbose",
        "--port",
        "--port=",
        "--port 65536",
        "--port -1",
        "--port ٣",
        "--port 8080x",
        "--workers 0",
        "--workers 65",
        "--log-level loud",
        "--config --port 1",
        "-c=a.yaml",
        "-ca.yaml",
        "a.yaml",
        "--conf a.yaml",
    ],
)
def test_anything_else_is_for_the_command_line(line: str) -> None:
    assert plain_options(line.split()) is None


def test_every_option_of_serve_is_known_by_each_of_its_names() -> None:
    names = {name: option.name for option in declared().params for name in option.opts if option.name != "help"}
    assert names == launch._NAMES


def test_a_plain_serve_goes_straight_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[ServeOptions] = []

    def serve(options: ServeOptions) -> int:
        served.append(options)
        return 3

    monkeypatch.setattr(launch, "serve", serve)
    monkeypatch.setattr(sys, "argv", ["tollbridge", "serve", "--port", "8081"])
    with pytest.raises(SystemExit) as ended:
        launch.main()
    assert (ended.value.code, served) == (3, [{**NOTHING, "port": 8081}])


@pytest.mark.parametrize("line", ["serve --workers many", "usage", "", "--help"])
def test_whatever_is_not_plain_goes_to_the_command_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr("proxy.cli.main", lambda: asked.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["tollbridge", *line.split()])
    launch.main()
    assert asked == [line.split()]


def test_the_way_in_imports_next_to_nothing() -> None:
    tree = ast.parse(Path(launch.__file__).read_text(encoding="utf-8"))
    at_the_top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {module for module in at_the_top if module and module.startswith("proxy")} == {
        "proxy.config.location",
        "proxy.late",
    }
