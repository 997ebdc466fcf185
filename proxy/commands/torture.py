"""`tollbridge torture`: an upstream that lies, a gateway in front of it, and a score of what the gateway's callers were told.

Without `--against` the gateway is this proxy, started for the purpose in a folder of its own. With it, it is whatever answers there: it
must have been configured to send the cases to the upstream, which `--print` writes down.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from proxy.commands.shell import Place, console, print_json
from proxy.terminal.marks import cell
from proxy.terminal.tables import table
from proxy.torture import configuration, runner
from proxy.torture.caller import Gateway
from proxy.torture.configuration import CALLER_KEY, Addresses, Refusing
from proxy.torture.scenarios import Case, cases
from proxy.torture.scripts import SCRIPTS
from proxy.torture.upstream import Upstream

FORMATS = ("tollbridge", "litellm", "words")
CALLERS = "callers"
NO_SCORE = 3  # the exit code
START_S = 30.0
STOP_S = 40.0
LOOK_S = 0.1
_SETTLED = (200, 401, 403)  # answers that waiting does not change
_UNCONFIGURED = "its configuration is written by `tollbridge torture --print tollbridge` (or litellm, or words)"
MAX_SAID_BYTES = 4_096
_ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tried. `only`: scripts by name, and CALLERS for the mistakes of callers; none for all. `wait_s`: how long the gateway may
    take to be there and configured."""

    failover: bool = True
    only: Sequence[str] = ()
    patience_s: float = 30.0
    wait_s: float = 60.0

    @property
    def callers(self) -> bool:
        return not self.only or CALLERS in self.only

    def cases(self) -> list[Case]:
        return [case for case in cases(failover=self.failover) if not self.only or case.scenario.script in self.only]


def written(place: Place, form: str, listen: str, plan: Plan) -> str:
    """The configuration that a gateway needs, in one of FORMATS."""
    host, port = address(place, listen)
    addresses = Addresses.at(host, port, port + 1)
    match form:
        case "tollbridge":
            return configuration.for_tollbridge(plan.cases(), addresses)
        case "litellm":
            return configuration.for_litellm(plan.cases(), addresses)
        case "words":
            return configuration.in_words(addresses)
        case _:
            return place.fail(f"there is no configuration for {form!r}: it is one of {', '.join(FORMATS)}")


def address(place: Place, listen: str) -> tuple[str, int]:
    """`127.0.0.1:9199` as a host and a port that has one behind it."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_535:
        place.fail(f"--listen {listen!r} is no address: write 127.0.0.1:9199")
    return host.strip("[]"), int(port)


def torture(place: Place, *, against: str | None, key: str | None, listen: str, plan: Plan) -> bool:
    """True if every case is won."""
    chosen = plan.cases()
    known = {CALLERS, *[case.scenario.script for case in cases()]}
    if unknown := [name for name in plan.only if name not in known]:
        place.fail(f"there is no scenario {unknown[0]!r}: there are {', '.join(sorted(known))}")
    if against is None:
        results = _ours(place, chosen, plan)
    else:
        try:
            gateway = Gateway.at(against, key)
        except ValueError as error:
            place.fail(str(error))
        results = _theirs(place, gateway, listen, chosen, plan)
    _show(place, results)
    return all(result.passed for result in results)


def _theirs(place: Place, gateway: Gateway, listen: str, chosen: list[Case], plan: Plan) -> list[runner.Result]:
    host, port = address(place, listen)
    upstream = Upstream(SCRIPTS, port=port, host=host, aliases=runner.aliases(chosen))
    try:
        refusing = Refusing(host, port + 1)
        upstream.start()
    except OSError as error:
        place.fail(f"{host}, ports {port} and {port + 1}, cannot be had: {error.strerror}. --listen takes another address")
    try:
        with refusing:
            return _tried(place, gateway, upstream, chosen, plan)
    finally:
        upstream.stop()


def _ours(place: Place, chosen: list[Case], plan: Plan) -> list[runner.Result]:
    upstream = Upstream(SCRIPTS, aliases=runner.aliases(chosen))
    upstream.start()
    try:
        with Refusing("127.0.0.1") as refusing, tempfile.TemporaryDirectory(prefix="tollbridge-torture-") as folder:
            config = Path(folder) / "providers.yaml"
            addresses = Addresses.at("127.0.0.1", upstream.port, refusing.port)
            config.write_text(configuration.for_tollbridge(chosen, addresses), encoding="utf-8")
            with _proxy(place, config) as port:
                gateway = Gateway.at(f"http://127.0.0.1:{port}", CALLER_KEY)
                return _tried(place, gateway, upstream, chosen, plan)
    finally:
        upstream.stop()


def _tried(place: Place, gateway: Gateway, upstream: Upstream, chosen: list[Case], plan: Plan) -> list[runner.Result]:
    async def work() -> list[runner.Result] | tuple[str, str]:
        until = time.monotonic() + plan.wait_s
        reply = await runner.answers(gateway, patience_s=plan.patience_s)
        while reply.status not in _SETTLED and time.monotonic() < until:
            await asyncio.sleep(LOOK_S)
            reply = await runner.answers(gateway, patience_s=plan.patience_s)
        if reply.status != 200:
            words = (
                f"it answered {reply.status}: {bytes(reply.body[:300]).decode(errors='replace')}"
                if reply.status
                else "nobody answers"
            )
            return words, "what it wants from its callers goes into --key" if reply.status in _SETTLED else _UNCONFIGURED
        return await runner.torture(gateway, upstream, chosen, patience_s=plan.patience_s, callers=plan.callers)

    if not place.as_json:
        typer.echo(f"the upstream that lies listens at {upstream.url}; {len(chosen)} cases through {gateway.authority}", err=True)
    found = asyncio.run(work())
    if isinstance(found, tuple):
        place.fail(f"the gateway at {gateway.authority} does not serve the model torture-good: {found[0]}\n{found[1]}")
    if upstream.faults:
        place.fail(f"the lying upstream itself failed: {upstream.faults[0]}")
    return found


@contextmanager
def _proxy(place: Place, config: Path) -> Iterator[int]:
    """This proxy, with that configuration, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-P", "-m", "proxy", "serve", "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*command, "--log-level", "error"],
            cwd=config.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            if (wrong := _not_listening(process, port)) is not None:
                said.seek(0)
                place.fail(f"{wrong}\n{said.read(MAX_SAID_BYTES).decode(errors='replace')}".strip())
            yield port
        finally:
            process.send_signal(signal.SIGINT)  # which waits for no load balancer, unlike SIGTERM
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _not_listening(process: subprocess.Popen[bytes], port: int) -> str | None:
    """Waits until it does; else why not."""
    until = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return None
        except OSError:
            if process.poll() is not None:
                return f"the proxy did not start: it ended with {process.returncode}"
        if time.monotonic() > until:
            return f"the proxy did not listen within {START_S:.0f} s"
        time.sleep(LOOK_S)


def _show(place: Place, results: list[runner.Result]) -> None:
    score = runner.score(results)
    if place.as_json:
        print_json([result.as_dict() for result in results], score=score)
        return
    terminal = console()
    shown = table(None, "", "what", "of", "scenario", "due", "seen", "why not")
    for result in results:
        values: tuple[Any, ...] = (
            result.group,
            result.kind or None,
            result.says,
            result.due,
            result.seen,
            "; ".join(result.faults),
        )
        shown.add_row("[green]✔[/]" if result.passed else "[red]✖[/]", *map(cell, values))
    terminal.print(shown)
    parts = [f"{name} {part['passed']} of {part['of']}" for name, part in score.items() if name != "all"]
    terminal.print(f"score: {score['all']['passed']} of {score['all']['of']} ({', '.join(parts)})", markup=False)
