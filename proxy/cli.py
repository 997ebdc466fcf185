"""The command line.

Thin: every command declares its options here and is done in `commands/`, by the module of its name. What a command needs is
imported inside it, so that `serve` starts without the reports' libraries and a report without the server's. Reports read the
ledger's file: they work whether or not a server runs. With `--json` a report is one object, `{"data": …}`, and nothing else goes to
standard output.
"""

from __future__ import annotations

import asyncio
import platform
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from proxy.commands.shell import Place, console, count, print_json, print_warnings
from proxy.core.version import VERSION
from proxy.launch import LOG_LEVELS, MAX_PORT, MAX_WORKERS, ServeOptions, is_of_output, let_go_of_output
from proxy.launch import serve as run_server

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
CompactOption = Annotated[bool, typer.Option("--compact", help="Less, for a narrow terminal or a mail.")]
ExportOption = Annotated[Path | None, typer.Option(help="Into this file, as its name ends: .csv, .json, .md or .txt.")]


def main() -> None:
    arguments = ["version" if argument == "--version" else argument for argument in sys.argv[1:2]]
    make_ready(arguments)
    try:
        app([*arguments, *sys.argv[2:]], prog_name="tollbridge")
    except OSError as error:
        if not is_of_output(error):
            raise
        let_go_of_output()
        typer.echo(f"standard output cannot be written: {error.strerror or error}", err=True)
        sys.exit(1)


def make_ready(asked: list[str]) -> None:
    """Leaves only the command that is asked for: each takes two milliseconds to set up, called or not. One that nobody knows, or the
    help, is looked for among all of them."""
    names = {"version", *asked}  # two at least: typer takes an app with one command for that command
    commands = [
        one for one in app.registered_commands if one.callback is not None and (one.name or one.callback.__name__) in names
    ]
    groups = [group for group in app.registered_groups if group.name in asked]
    if len(commands) + len(groups) > 1:
        app.registered_commands, app.registered_groups = commands, groups


@app.command()
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Listen here, whatever the configuration says.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=MAX_PORT, help="Listen on this port; 0 takes a free one.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=MAX_WORKERS, help="How many processes serve.")] = 1,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Start the proxy."""
    if log_level is not None and log_level.lower() not in LOG_LEVELS:
        raise typer.BadParameter("debug, info, warning or error", param_hint="--log-level")
    options = ServeOptions(
        config=config,
        host=host,
        port=port,
        workers=workers,
        data_dir=data_dir,
        env_file=env_file,
        log_level=log_level.lower() if log_level else None,
    )
    raise typer.Exit(run_server(options))


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
    settings = Place(config, env_file=env_file, as_json=as_json).settings(faults_to_stdout=True)
    if settings.keys_problem is not None and not live:
        fault = {"file": "keys.json", "line": 1, "col": 1, "message": settings.keys_problem, "help": "docs/keys.md#the-file"}
        if as_json:
            print_json({"faults": [fault], "warnings": list(settings.warnings), "config": settings.hash})
        else:
            typer.echo(settings.keys_problem)
        raise typer.Exit(1)
    if not live:
        if as_json:
            print_json({"faults": [], "warnings": list(settings.warnings), "config": settings.hash})
            return
        print_warnings(settings)
        ready = sum(provider.enabled for provider in settings.providers.values())
        chains = [*settings.chains, *settings.wildcards]
        typer.echo(
            f"{settings.path or 'built-in configuration'}: ok. Configuration {settings.hash}: {count(chains, 'chain')}, "
            f"{count(settings.providers, 'provider')} ({ready} usable), {count(settings.clients, 'client')}."
        )
        return
    # the transports, which no other command needs
    from proxy.upstream.probe import Finding, probe_all

    probes = asyncio.run(probe_all(settings.providers.values(), monotonic=time.monotonic))
    if as_json:
        print_json(
            [
                {"provider": p.provider, "key": p.key, "state": p.finding, "models": p.models, "ms": p.ms, "detail": p.detail}
                for p in probes
            ]
        )
    else:
        # rich, which only tables need
        from proxy.terminal.marks import cell
        from proxy.terminal.tables import table

        shown = table(None, "provider", "key", "state", "models", "ms", "", numbers=("models", "ms"))
        for probe in probes:
            shown.add_row(*map(cell, (probe.provider, probe.key, probe.finding.value, probe.models, probe.ms, probe.detail)))
        for provider in settings.providers.values():
            if not provider.enabled:
                shown.add_row(*map(cell, (provider.name, None, "skipped", None, None, provider.disabled)), style="dim")
        console().print(shown)
        print_warnings(settings)
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
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Everything at one look: alerts, the last 24 hours, the month, providers, budgets and quotas."""
    if watch and as_json:
        raise typer.BadParameter("it draws on the terminal, and --json does not", param_hint="--watch")
    # the reports and rich
    from proxy.commands.overview import status as run

    run(Place(config, data_dir, env_file, as_json), watch=watch)


@app.command()
def health(
    providers: Annotated[list[str] | None, typer.Argument(metavar="[PROVIDER]...", help="Only these.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Have the running proxy ask now, whatever it found a minute ago.")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """How every provider is doing. Exit 0: well, 1: degraded, 2: down, 3: it could not be told."""
    # the checks and rich
    from proxy.commands.health import NO_REPORT
    from proxy.commands.health import health as run

    place = Place(config, data_dir, env_file, as_json, failure=NO_REPORT)
    raise typer.Exit(run(place, list(dict.fromkeys(providers or [])), fresh=fresh))


@app.command()
def usage(
    by: Annotated[
        str,
        typer.Option(
            "--by",
            help="Groups, separated by commas: provider, model, chain, client, department, agent, task, key, month, day, hour.",
        ),
    ] = "provider,model",
    since: Annotated[str, typer.Option(help="An age such as 90m, 12h, 7d, or a date.")] = "30d",
    until: Annotated[str | None, typer.Option(help="The same, for the end.")] = None,
    time_zone: Annotated[str, typer.Option(help="When days and months begin: Europe/Berlin, for one.")] = "UTC",
    provider: Annotated[str | None, typer.Option(help="Only what it answered.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model, as its provider calls it.")] = None,
    chain: Annotated[str | None, typer.Option(help="Only of this chain.")] = None,
    client: Annotated[str | None, typer.Option(help="Only of this client.")] = None,
    department: Annotated[str | None, typer.Option(help="Only of this department.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only of this agent.")] = None,
    task: Annotated[str | None, typer.Option(help="Only of this task.")] = None,
    compact: CompactOption = False,
    export: ExportOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Requests, times, tokens and cost, summed up over whole hours."""
    # the reports and rich
    from proxy.commands.usage import usage as run

    named = {"provider": provider, "model": model, "chain": chain, "client": client, "department": department, "agent": agent}
    given = {"since": since, "until": until, "time_zone": time_zone, **named, "task": task}
    place = Place(config, data_dir, env_file, as_json)
    run(place, by, {name: value for name, value in given.items() if value}, compact=compact, export=export)


ledger = typer.Typer(help="Does the ledger add up? Mend it, price attempts again, take its rows away.", no_args_is_help=True)
app.add_typer(ledger, name="ledger")


@ledger.command("verify")
def verify_ledger(
    config: ConfigOption = None, data_dir: DataDirOption = None, env_file: EnvFileOption = None, as_json: JsonOption = False
) -> None:
    """Hold file, sums, rows and journal against each other, also beside a running server. Exit 1 if anything differs."""
    # the ledger's checks and rich
    from proxy.commands.bookkeeping import verify as run

    if not run(Place(config, data_dir, env_file, as_json)):
        raise typer.Exit(1)


@ledger.command("repair")
def repair_ledger(
    config: ConfigOption = None, data_dir: DataDirOption = None, env_file: EnvFileOption = None, as_json: JsonOption = False
) -> None:
    """Make the sums anew from the rows, and a damaged file from the journal. The server must not run. Exit 1 if anything differs still."""
    # the drainer and rich
    from proxy.commands.bookkeeping import repair as run

    if not run(Place(config, data_dir, env_file, as_json)):
        raise typer.Exit(1)


@ledger.command("reprice")
def reprice_ledger(
    since: Annotated[str | None, typer.Option(help="An age such as 7d, or a date; else from the first row on.")] = None,
    until: Annotated[str | None, typer.Option(help="The same, for the end.")] = None,
    provider: Annotated[str | None, typer.Option(help="Only of this provider.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model, as its provider calls it.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also attempts whose cost is known; needs one of the above.")] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Change it. Without, it is only shown. The server must not run.")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """What attempts without a price cost by the present prices."""
    # prices, the drainer and rich
    from proxy.commands.bookkeeping import reprice as run

    place = Place(config, data_dir, env_file, as_json)
    run(place, since=since, until=until, provider=provider, model=model, everything=everything, apply=apply)


@ledger.command("backup")
def back_up_ledger(
    output: Annotated[Path, typer.Argument(metavar="FILE", help="Is replaced when the copy is complete.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """A whole copy of one moment, also beside a running server."""
    # the ledger's file
    from proxy.commands.bookkeeping import back_up as run

    run(Place(config, data_dir, env_file), output)


@ledger.command("export")
def export_ledger(
    attempts: Annotated[bool, typer.Option("--attempts", help="A line for each attempt instead of each request.")] = False,
    since: Annotated[str | None, typer.Option(help="An age such as 7d, or a date; else from the first row on.")] = None,
    until: Annotated[str | None, typer.Option(help="The same, for the end.")] = None,
    form: Annotated[str | None, typer.Option("--format", help="csv or jsonl; else as the file's name ends.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Into this file, instead of standard output.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """The rows, oldest first, as CSV or JSON lines."""
    # the ledger's rows
    from proxy.commands.bookkeeping import export as run
    from proxy.commands.bookkeeping import form_of

    what = "attempts" if attempts else "requests"
    run(Place(config, data_dir, env_file), what, form_of(form, output), since=since, until=until, output=output)


@app.command()
def budgets(
    config: ConfigOption = None, data_dir: DataDirOption = None, env_file: EnvFileOption = None, as_json: JsonOption = False
) -> None:
    """What is spent of every budget, and what will be by its end."""
    # the reports and rich
    from proxy.commands.allowances import budgets as run

    run(Place(config, data_dir, env_file, as_json))


quotas = typer.Typer(
    help="What is left of every quota, how long a full one lasts, and when the next runs out.", invoke_without_command=True
)
app.add_typer(quotas, name="quotas")


@quotas.callback()
def list_quotas(
    context: typer.Context,
    tokens_per_day: Annotated[float | None, typer.Option(min=1, help="Reckon with so many, not with the ledger's pace.")] = None,
    tokens_per_request: Annotated[
        float | None, typer.Option(min=1, help="For quotas in requests; else as the ledger has it.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    # the reports and rich
    from proxy.commands.allowances import quotas as run

    place = Place(config, data_dir, env_file, as_json)
    run(place, tokens_per_day=tokens_per_day, tokens_per_request=tokens_per_request)


@quotas.command("reset")
def reset_quotas(
    provider: Annotated[str, typer.Argument(help="Whose quotas begin anew.")],
    key: Annotated[str | None, typer.Option(help="Only of this key, by its fingerprint as `quotas` shows it.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget what was used of a provider's quotas: it gave new ones before their time."""
    # the journal, the drainer and rich
    from proxy.commands.allowances import reset as run

    run(Place(config, data_dir, env_file, as_json), provider, key)


keys = typer.Typer(
    help="Keys that are made and ended while the proxy runs; docs/keys.md.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(keys, name="keys")
KeyArgument = Annotated[str, typer.Argument(metavar="ID|NAME", help="Which one, by its id or its name.")]


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Who will use it: the `client` of the ledger's rows.")],
    department: Annotated[str | None, typer.Option(help="Whom its use is counted for.")] = None,
    agent: Annotated[str | None, typer.Option(help="The agent that its use is counted for.")] = None,
    chain: Annotated[
        list[str] | None, typer.Option(help="A chain that it may use, and no direct targets. May be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model name that it may ask for; `*` stands for anything. May be repeated.")
    ] = None,
    expires: Annotated[str | None, typer.Option(help="Until when: 90d from now, or a date.")] = None,
    usd: Annotated[str | None, typer.Option(help="What it may spend, in USD.")] = None,
    per: Annotated[str, typer.Option(help="The period of --usd: day, month or once.")] = "month",
    soft: Annotated[bool, typer.Option("--soft", help="More than --usd is told, and not refused.")] = False,
    rpm: Annotated[int | None, typer.Option(min=1, help="Requests in any minute.")] = None,
    tpm: Annotated[int | None, typer.Option(min=1, help="Tokens in any minute.")] = None,
    in_flight: Annotated[int | None, typer.Option(min=1, help="Requests at one time.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. It is printed, once, to standard output."""
    # the ledger and rich
    from proxy.commands.keys import create as run

    asked = {
        "name": name,
        "department": department,
        "agent": agent,
        "chains": chain or None,
        "models": model or None,
        "expires": expires,
        "budget": None if usd is None else {"usd": usd, "per": per, "hard": not soft},
        "limits": {"rpm": rpm, "tpm": tpm, "in_flight": in_flight},
    }
    run(Place(config, data_dir, env_file, as_json), asked)


@keys.command("list")
def list_keys(
    config: ConfigOption = None, data_dir: DataDirOption = None, env_file: EnvFileOption = None, as_json: JsonOption = False
) -> None:
    """Every key that was made, ended ones too."""
    # the ledger and rich
    from proxy.commands.keys import listed as run

    run(Place(config, data_dir, env_file, as_json))


@keys.command("revoke")
def revoke_key(
    key: KeyArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a key now. It opens nothing any more within a second, wherever the proxy runs."""
    # the ledger and rich
    from proxy.commands.keys import revoke as run

    run(Place(config, data_dir, env_file, as_json), key)


@keys.command("rotate")
def rotate_key(
    key: KeyArgument,
    grace: Annotated[str, typer.Option(help="How long the old secret still opens; 0s ends it now.")] = "1h",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a key another secret, which is printed, once, to standard output. Name, budget and limits stay."""
    # the ledger and rich
    from proxy.commands.keys import rotate as run

    run(Place(config, data_dir, env_file, as_json), key, grace)


cache = typer.Typer(
    help="Answers that are kept and given again; docs/cache.md.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cache, name="cache")


@cache.command("stats")
def cache_stats(
    config: ConfigOption = None, data_dir: DataDirOption = None, env_file: EnvFileOption = None, as_json: JsonOption = False
) -> None:
    """How much is kept of every chain; of a proxy that runs also how often it was of use, and what that saved."""
    # rich
    from proxy.commands.cache import stats as run

    run(Place(config, data_dir, env_file, as_json))


@cache.command("clear")
def cache_clear(
    chain: Annotated[str | None, typer.Option(help="Only what is kept of this chain.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget what is kept: in a proxy that runs, and in the file."""
    # rich
    from proxy.commands.cache import clear as run

    run(Place(config, data_dir, env_file, as_json), chain)


@app.command()
def alerts(
    state: Annotated[str | None, typer.Option(help="open, acknowledged or resolved.")] = None,
    kind: Annotated[str | None, typer.Option(help="Such as provider_down or budget.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many, open ones first, then newest first.")] = 50,
    acknowledge: Annotated[str | None, typer.Option(metavar="ID", help="Note that this one was seen.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Send a test message to every destination. Exit 1 if one fails.")] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """What was told of providers, budgets, quotas and the proxy itself, and what of it is not over."""
    # the reports and rich
    from proxy.commands import alerting

    place = Place(config, data_dir, env_file, as_json)
    if test:
        alerting.test(place)
    elif acknowledge is not None:
        alerting.acknowledge(place, acknowledge)
    else:
        alerting.alerts(place, state=state, kind=kind, limit=limit)


@app.command()
def advice(
    compare: Annotated[
        str, typer.Option(metavar="TARGETS", help="Reckon with these as well: provider/model, separated by commas.")
    ] = "",
    kind: Annotated[str, typer.Option(metavar="KINDS", help="Only these, separated by commas.")] = "",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """What the last 30 days suggest to change: dearer than need be, failing, slow, idle, and what the month will cost."""
    # the reports and rich
    from proxy.commands.advice import advice as run

    run(Place(config, data_dir, env_file, as_json), _names(compare), _names(kind))


@app.command()
def report(
    since: Annotated[str | None, typer.Option(help="An age such as 7d, or a date; else this month.")] = None,
    until: Annotated[str | None, typer.Option(help="The same, for the end.")] = None,
    time_zone: Annotated[str, typer.Option(help="When days and months begin: Europe/Berlin, for one.")] = "UTC",
    compact: CompactOption = False,
    export: ExportOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Everything: health, use and cost, budgets, quotas, alerts, failovers and advice."""
    # the reports and rich
    from proxy.commands.overview import report as run

    given = {"since": since, "until": until, "time_zone": time_zone if time_zone != "UTC" else None}
    place = Place(config, data_dir, env_file, as_json)
    run(place, {name: value for name, value in given.items() if value}, compact=compact, export=export)


@app.command()
def selftest(
    traffic: Annotated[int, typer.Option(min=1, max=10_000, help="How many requests.")] = 60,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send labelled requests to the built-in demo and hold every report against them. Costs nothing; fills an empty dashboard."""
    # the reports, rich and a client
    from proxy.commands.selftest import selftest as run

    if not run(Place(config, data_dir, env_file, as_json), traffic=traffic):
        raise typer.Exit(1)


@app.command()
def torture(
    against: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A gateway that runs, such as http://127.0.0.1:4000; else this one, started for it."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="What the gateway wants from its callers, as a bearer token.")] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the upstream that lies listens.")] = "127.0.0.1:9199",
    print_: Annotated[
        str | None,
        typer.Option("--print", metavar="FORM", help="Only write the gateway's configuration: tollbridge, litellm or words."),
    ] = None,
    no_failover: Annotated[bool, typer.Option("--no-failover", help="Leave out what another target could make good.")] = False,
    only: Annotated[
        str, typer.Option(metavar="NAMES", help="Only these scenarios, separated by commas; callers: their mistakes.")
    ] = "",
    patience: Annotated[float, typer.Option(min=1, max=600, help="Seconds within which everything must come to an end.")] = 30.0,
    wait: Annotated[float, typer.Option(min=0, help="Seconds that the gateway may take to be there and configured.")] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Put a gateway in front of an upstream that lies and score what its callers are told. Exit 1 if a case is lost, 3 without a score."""
    # the upstream, the scenarios and rich
    from proxy.commands import torture as run

    place, plan = Place(as_json=as_json, failure=run.NO_SCORE), run.Plan(not no_failover, _names(only), patience, wait)
    if print_ is not None:
        typer.echo(run.written(place, print_, listen, plan), nl=False)
    elif not run.torture(place, against=against, key=key, listen=listen, plan=plan):
        raise typer.Exit(1)


@app.command()
def simulate(
    scenario: Annotated[Path, typer.Option("--scenario", "-s", help="What is asked, and what goes wrong when.")],
    config: ConfigOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="What all chance is drawn from.  [default: the scenario's]")] = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the proxy's engine on a clock of its own against upstreams that fail by a script, and draw what happened. Asks nobody."""
    # the engine
    from proxy.commands.simulate import simulate as run

    run(Place(config, env_file=env_file, as_json=as_json), scenario, seed=seed)


@app.command()
def replay(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The configuration to try.  [default: providers.yaml]")
    ] = None,
    ledger_of: Annotated[
        Path | None,
        typer.Option("--ledger", metavar="FILE", help="The configuration whose ledger is read; else that of the one to try."),
    ] = None,
    since: Annotated[str, typer.Option(help="An age such as 90m, 12h, 7d, or a date.")] = "7d",
    until: Annotated[str | None, typer.Option(help="The same, for the end.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many requests, the oldest of that time.")] = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """What the ledger's requests would have come to under another configuration. Calls nobody. Exit 1 if nothing was recorded."""
    # the ledger, prices and rich
    from proxy.commands.replay import replay as run

    run(Place(config, data_dir, env_file, as_json), ledger=ledger_of, since=since, until=until, limit=limit)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A configuration.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another one.")],
    since: Annotated[str, typer.Option(help="How much of the ledger to reckon with: an age such as 7d, or a date.")] = "30d",
    until: Annotated[str | None, typer.Option(help="The same, for the end.")] = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """What two configurations differ in, in words and, with the old one's ledger, in dollars. Exit 0: nothing, 1: something, 2: trouble."""
    # the ledger, prices and rich
    from proxy.commands.diff import TROUBLE
    from proxy.commands.diff import diff as run

    if not run(Place(None, data_dir, env_file, as_json, failure=TROUBLE), old, new, since=since, until=until):
        raise typer.Exit(1)


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
    # the ledger and rich
    from proxy.commands import requests as run

    place = Place(config, data_dir, env_file, as_json)
    if request_id is not None:
        run.show(place, request_id)
        return
    filters = {"model": model, "provider": provider, "client": client, "department": department, "outcome": outcome}
    run.listed(place, limit, before, {name: value for name, value in filters.items() if value is not None})


@app.command()
def explain(
    request_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The story of this request, from the ledger.")] = None,
    model: Annotated[str | None, typer.Option(help="Which way a request for it would go. Nothing is sent.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="The request's body, JSON; - is standard input. Else a short question."
        ),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="'x-tollbridge-prefer: groq', for one. May be repeated.")
    ] = None,
    client: Annotated[str | None, typer.Option(help="Who would send it, by the name in the configuration.")] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    env_file: EnvFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why a request went the way that it did, or which way one would go: in plain words, with every figure."""
    # the engine or the ledger
    from proxy.commands import explain as run

    place = Place(config, data_dir, env_file, as_json)
    if request_id is not None and (model is not None or file is not None or header or client is not None):
        raise typer.BadParameter(
            "an ID is of a request that was: --model, --file, --header and --client are for one that could be"
        )
    if request_id is not None:
        run.story(place, request_id)
    elif model is None and file is None:
        raise typer.BadParameter("the ID of a request, or --model and perhaps --file")
    else:
        run.foreseen(place, model=model, file=file, headers=header or [], client=client)


@app.command()
def models(config: ConfigOption = None, env_file: EnvFileOption = None, as_json: JsonOption = False) -> None:
    """The model names that callers can use, as GET /v1/models lists them."""
    settings = Place(config, env_file=env_file, as_json=as_json).settings()
    listed = settings.listed_models()
    if as_json:
        print_json([{"id": name, "object": "model", "owned_by": owner} for name, owner in listed])
        return
    # rich, which only tables need
    from proxy.terminal.marks import cell
    from proxy.terminal.tables import table

    shown = table(None, "model", "owned by", "goes to")
    for name, owner in listed:
        chain = settings.chains.get(name)
        shown.add_row(cell(name), cell(owner), cell(" → ".join(target.name for target in chain.targets) if chain else name))
    console().print(shown)


@app.command()
def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    if as_json:
        print_json({"version": VERSION, "python": platform.python_version()})
    else:
        typer.echo(f"tollbridge {VERSION} (Python {platform.python_version()})")


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
