"""The command line: `tollbridge serve, check, schema, status, usage, requests, models, version`.

Thin: every command reads its options, asks the module that knows, and prints. What a command needs is imported inside it, so
that `serve` starts without the reports' libraries and a report without the server's. Reports read the ledger's file: they work
whether or not a server runs. With `--json` a report is one object, `{"data": …}`, and nothing else goes to standard output.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from proxy.config.location import config_path
from proxy.core.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sized

    from rich.console import Console

    from proxy.config.settings import Settings
    from proxy.storage.queries import Queries

_T = TypeVar("_T")

BEGAN = time.monotonic()

_UNITS_S = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

app = typer.Typer(
    name="tollbridge",
    help="A proxy for LLM APIs: one endpoint, many providers, failover before the caller notices, every token accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="The configuration.  [default: providers.yaml]")]
EnvFileOption = Annotated[Path | None, typer.Option("--env-file", help="Read this instead of the .env beside the configuration.")]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="The ledger's folder, instead of the one in the configuration.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]


def main() -> None:
    app(prog_name="tollbridge")


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Listen here, whatever the configuration says.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Listen on this port; 0 takes a free one.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many processes serve.")] = 1,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Start the proxy."""
    if log_level is not None and log_level.lower() not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("debug, info, warning or error", param_hint="--log-level")
    # the server, which the reports do not need
    from proxy.app import serve as run

    code = run(
        config=config or config_path(os.environ),
        env_file=env_file,
        host=host,
        port=port,
        workers=workers,
        data_dir=data_dir,
        log_level=log_level.lower() if log_level else None,
        began=BEGAN,
    )
    raise typer.Exit(code)


@app.command()
def check(
    config: ConfigOption = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask each provider for its model list: is the key right? Never a completion.")
    ] = False,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read the configuration and say everything that is wrong with it. Exit 1 if anything is."""
    settings = _load(config, env_file, as_json=as_json, faults_to_stdout=True)
    if not live:
        if as_json:
            _print_json({"faults": [], "warnings": list(settings.warnings), "config": settings.hash})
            return
        _print_warnings(settings)
        ready = sum(provider.enabled for provider in settings.providers.values())
        typer.echo(
            f"{settings.path or 'built-in configuration'}: ok. Configuration {settings.hash}: {_count(settings.chains, 'chain')}, "
            f"{_count(settings.providers, 'provider')} ({ready} usable), {_count(settings.clients, 'client')}."
        )
        return
    # httpx2 takes longer to import than the rest together
    from proxy.upstream.probe import Finding, probe_all

    probes = asyncio.run(probe_all(settings.providers.values(), monotonic=time.monotonic))
    if as_json:
        _print_json(
            [
                {"provider": p.provider, "key": p.key, "state": p.finding, "models": p.models, "ms": p.ms, "detail": p.detail}
                for p in probes
            ]
        )
    else:
        # rich, which only tables need
        from proxy.terminal.tables import cell, table

        shown = table(None, "provider", "key", "state", "models", "ms", "", numbers=("models", "ms"))
        for probe in probes:
            shown.add_row(*map(cell, (probe.provider, probe.key, probe.finding.value, probe.models, probe.ms, probe.detail)))
        for provider in settings.providers.values():
            if not provider.enabled:
                shown.add_row(*map(cell, (provider.name, None, "skipped", None, None, provider.disabled)), style="dim")
        _console().print(shown)
        _print_warnings(settings)
    if any(probe.finding in (Finding.BAD_KEY, Finding.UNREACHABLE, Finding.FAULT) for probe in probes):
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON schema of providers.yaml, for editors."""
    # pydantic builds the whole model tree
    from proxy.config.jsonschema import schema_text

    typer.echo(schema_text(), nl=False)


@app.command()
def status(
    config: ConfigOption = None, data_dir: DataDirOption = None, env_file: EnvFileOption = None, as_json: JsonOption = False
) -> None:
    """What is configured, whether a server runs, and what the last 24 hours brought."""
    settings = _load(config, env_file, as_json=as_json, data_dir=data_dir)
    folder = settings.data_dir
    now_ms = int(time.time() * 1000)
    usage_rows = _read(folder, lambda ledger: ledger.usage(["provider"], now_ms - 86_400_000, None), as_json=as_json)
    lag = _read(folder, lambda ledger: ledger.ledger_lag(time.time()), as_json=as_json)
    server = _ask_server(settings)
    providers: list[dict[str, Any]] = [
        {
            "name": p.name,
            "usable": p.enabled,
            "reason": p.disabled,
            "keys": [c.secret.tail() for c in p.credentials if c.secret],
            "base_url": None if p.transport == "demo" else p.base_url,
        }
        for p in settings.providers.values()
    ]
    chains: list[dict[str, Any]] = [
        {"name": chain.name, "targets": [{"target": t.name, "skipped": t.disabled or t.provider.disabled} for t in chain.targets]}
        for chain in settings.chains.values()
    ]
    if as_json:
        _print_json(
            {
                "config": settings.hash,
                "data_dir": str(folder),
                "server": server,
                "providers": providers,
                "chains": chains,
                "last_24h": usage_rows,
                "ledger": {"lag_s": lag.seconds, "waiting_bytes": lag.waiting_bytes, **lag.counters},
                "warnings": list(settings.warnings),
            }
        )
        return
    # rich, which only tables need
    from proxy.terminal import tables

    console = _console()
    console.print(f"{server['url']}: {server['state']}", markup=False)
    console.print(f"configuration {settings.hash}, ledger in {folder}\n", markup=False)
    shown = tables.table("providers", "name", "state", "keys", "base URL")
    for entry in providers:
        state = "ok" if entry["usable"] else f"skipped: {entry['reason']}"
        shown.add_row(*map(tables.cell, (entry["name"], state, " ".join(entry["keys"]), entry["base_url"] or "built in")))
    console.print(shown)
    shown = tables.table("chains", "model", "targets, in order")
    for chain in chains:
        names = [f"{t['target']} (skipped)" if t["skipped"] else t["target"] for t in chain["targets"]]
        shown.add_row(tables.cell(chain["name"]), ", ".join(names))
    console.print(shown)
    if usage_rows:
        console.print(tables.usage(usage_rows, ["provider"], "last 24 hours"))
    else:
        console.print("no requests in the last 24 hours")
    _print_warnings(settings)


@app.command()
def usage(
    by: Annotated[
        str,
        typer.Option(
            "--by", help="Groups, separated by commas: provider, model, chain, client, department, agent, task, day, hour."
        ),
    ] = "provider,model",
    since: Annotated[str, typer.Option(help="An age such as 90m, 12h, 7d, or a date (UTC).")] = "30d",
    until: Annotated[str | None, typer.Option(help="The same, for the end.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Requests, tokens and cost, summed up over whole hours."""
    # the reader's table of groups
    from proxy.storage.queries import GROUPS

    groups = [group.strip() for group in by.split(",") if group.strip()]
    if unknown := [group for group in groups if group not in GROUPS]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(GROUPS)}", param_hint="--by")
    since_ms, until_ms = _moment(since, "--since"), _moment(until, "--until") if until else None
    folder = _ledger_folder(config, data_dir, env_file, as_json=as_json)
    rows = _read(folder, lambda ledger: ledger.usage(groups, since_ms, until_ms), as_json=as_json)
    if as_json:
        _print_json(rows)
        return
    # rich, which only tables need
    from proxy.terminal import tables

    console = _console()
    title = f"since {_day(since_ms)}" + (f", until {_day(until_ms)}" if until_ms else "")
    if rows:
        console.print(tables.usage(rows, groups, title))
    else:
        console.print(f"nothing was recorded {title} in {folder}", markup=False)


@app.command()
def requests(
    request_id: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="Show this one, with its attempts and why each target was kept or skipped."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many, newest first.")] = 20,
    before: Annotated[str | None, typer.Option(help="Only older than this id.")] = None,
    model: Annotated[str | None, typer.Option(help="As the caller sent it.")] = None,
    provider: Annotated[str | None, typer.Option(help="That answered.")] = None,
    client: Annotated[str | None, typer.Option(help="Who called.")] = None,
    department: Annotated[str | None, typer.Option(help="Whom it was counted for.")] = None,
    outcome: Annotated[str | None, typer.Option(help="running, ok, failed, rejected, interrupted or client_gone.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """The ledger's requests, newest first; or one of them in full."""
    folder = _ledger_folder(config, data_dir, env_file, as_json=as_json)
    # rich, which only tables need
    from proxy.terminal import tables

    if request_id is not None:
        row = _read(folder, lambda ledger: ledger.get_request(request_id), as_json=as_json)
        if row is None:
            _fail(f"there is no request {request_id!r} in {folder}", as_json=as_json)
        if as_json:
            _print_json(row)
        else:
            _console().print(*tables.request(row), sep="\n")
        return
    filters = {"model": model, "provider": provider, "client": client, "department": department, "outcome": outcome}
    rows, following = _read(folder, lambda ledger: ledger.list_requests(limit, before, **filters), as_json=as_json)
    if as_json:
        _print_json(rows, next=following)
        return
    console = _console()
    console.print(tables.requests(rows) if rows else f"no such request in {folder}")
    if following:
        console.print(f"older ones: --before {following}", style="dim")


@app.command()
def models(config: ConfigOption = None, env_file: EnvFileOption = None, as_json: JsonOption = False) -> None:
    """The model names that callers can use, as GET /v1/models lists them."""
    settings = _load(config, env_file, as_json=as_json)
    listed = settings.listed_models()
    if as_json:
        _print_json([{"id": name, "object": "model", "owned_by": owner} for name, owner in listed])
        return
    # rich, which only tables need
    from proxy.terminal.tables import cell, table

    shown = table(None, "model", "owned by", "goes to")
    for name, owner in listed:
        chain = settings.chains.get(name)
        shown.add_row(cell(name), cell(owner), cell(" → ".join(target.name for target in chain.targets) if chain else name))
    _console().print(shown)


@app.command()
def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    if as_json:
        _print_json({"version": VERSION, "python": platform.python_version()})
    else:
        typer.echo(f"tollbridge {VERSION} (Python {platform.python_version()})")


def _load(
    config: Path | None, env_file: Path | None, *, as_json: bool, data_dir: Path | None = None, faults_to_stdout: bool = False
) -> Settings:
    """The settings, or an exit with 1 that names every fault; for `check` the faults are the report."""
    # pydantic and YAML, which a report with --data-dir does not need
    from proxy.config.load import ConfigError, load

    try:
        return load(config or config_path(os.environ), environ=os.environ, env_file=env_file, overrides={"data_dir": data_dir})
    except ConfigError as error:
        if as_json:
            faults = [{"file": f.file, "line": f.line, "col": f.col, "message": f.message} for f in error.faults]
            _print_json({"faults": faults, "warnings": [], "config": None})
        else:
            typer.echo("\n".join(map(str, error.faults)), err=not faults_to_stdout)
        raise typer.Exit(1) from None


def _ledger_folder(config: Path | None, data_dir: Path | None, env_file: Path | None, *, as_json: bool) -> Path:
    if data_dir is None:
        return _load(config, env_file, as_json=as_json).data_dir
    if not data_dir.is_dir():
        _fail(f"there is no folder {data_dir}", as_json=as_json)
    return data_dir


def _read(folder: Path, question: Callable[[Queries], Coroutine[Any, Any, _T]], *, as_json: bool) -> _T:
    """One question to the ledger; a ledger that is not there yet is empty."""
    # aiosqlite, which only reports need here
    from proxy.core.errors import LedgerUnavailable
    from proxy.storage.queries import Queries

    async def ask() -> _T:
        ledger = Queries(folder)
        try:
            return await question(ledger)
        finally:
            await ledger.aclose()

    try:
        return asyncio.run(ask())
    except LedgerUnavailable as error:
        _fail(f"{error.message}: {folder}", as_json=as_json)


def _ask_server(settings: Settings) -> dict[str, Any]:
    """Whether a server answers where the configuration says it listens."""
    # the standard library's client is enough for one question, and quick to import
    import http.client

    host = settings.server.host
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    url = f"http://{f'[{reached}]' if ':' in reached else reached}:{settings.server.port}"
    connection = http.client.HTTPConnection(reached, settings.server.port, timeout=1.0)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        response.read(65_536)
        ours = response.getheader("x-request-id") is not None
        state = "no proxy answers there" if not ours else "ready" if response.status == 200 else f"not ready ({response.status})"
    except (OSError, http.client.HTTPException):
        state = "not running"
    finally:
        connection.close()
    return {"url": url, "state": state}


def _moment(text: str, option: str) -> int:
    """Milliseconds since 1970 of an age (`7d`) or a date (`2026-11-01`, `2026-11-01T12:00Z`), UTC unless it says otherwise."""
    # only two commands need it
    from datetime import UTC, datetime

    if match := re.fullmatch(r"(\d{1,6})([mhdw])", text.strip()):
        return int((time.time() - int(match[1]) * _UNITS_S[match[2]]) * 1000)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither an age such as 7d nor a date such as 2026-11-01", param_hint=option
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _day(time_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(time_ms / 1000)) + " UTC"


def _count(things: Sized, noun: str) -> str:
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")


def _console() -> Console:
    """Rich decides on colours itself: none for NO_COLOR or when nobody looks. A file or a pipe gets lines as long as they are."""
    # rich, which only tables need
    from rich.console import Console

    return Console(soft_wrap=False, width=None if sys.stdout.isatty() else 200, highlight=False)


def _print_json(data: Any, **more: Any) -> None:
    typer.echo(json.dumps({"data": data, **more}, indent=2, ensure_ascii=False))


def _print_warnings(settings: Settings) -> None:
    for warning in settings.warnings:
        typer.echo(f"warning: {warning}", err=True)


def _fail(message: str, *, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"error": {"message": message}}, ensure_ascii=False))
    else:
        typer.echo(message, err=True)
    raise typer.Exit(1)
