"""What live traffic tells of targets, and where providers stand in the chains: the parts of a card that have no state of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from proxy.config.settings import Settings
from proxy.core.target import Provider, Target
from proxy.monitoring.health import Part
from proxy.routing.deployment import DeploymentSnapshot

CIRCUITS = ("closed", "half_open", "open")  # the best first
MAX_OTHERS = 50
Row = dict[str, Any]


class Snapshots(Protocol):
    """How every deployment stands: of this process, or of all workers together."""

    def snapshot(self, now: float) -> list[DeploymentSnapshot]: ...


def snapshots_of(settings: Settings, deployments: Snapshots | None, now: float) -> dict[str, list[DeploymentSnapshot]]:
    """By provider. Those of keys that the file does not have any more say nothing about what it has."""
    keys = {(provider.name, credential.id) for provider in settings.providers.values() for credential in provider.credentials}
    found: dict[str, list[DeploymentSnapshot]] = {}
    for snapshot in deployments.snapshot(now) if deployments is not None else ():
        if (snapshot.provider, snapshot.credential) in keys:
            found.setdefault(snapshot.provider, []).append(snapshot)
    return found


def targets_of(settings: Settings) -> dict[str, dict[str, Target]]:
    """Provider -> model -> target, of those that a chain names, in the file's order."""
    targets: dict[str, dict[str, Target]] = {}
    for chain in settings.chains.values():
        for target in chain.targets:
            targets.setdefault(target.provider.name, {}).setdefault(target.upstream_model, target)
    return targets


def roles_of(settings: Settings) -> dict[str, list[Row]]:
    """Provider -> `{"chain", "role", "position"}` for each chain that it serves; wildcards come last. `position` is 1 for the first."""
    chains = {name: [target.provider.name for target in chain.targets] for name, chain in settings.chains.items()}
    for _, template in settings.wildcards:
        chains[template.name] = [target.partition("/")[0] for target in template.targets]
    roles: dict[str, list[Row]] = {}
    for chain, providers in chains.items():
        for provider in dict.fromkeys(providers):
            position = providers.index(provider) + 1
            role = {"chain": chain, "role": "primary" if position == 1 else "fallback", "position": position}
            roles.setdefault(provider, []).append(role)
    return roles


def parts_of(snapshots: Sequence[DeploymentSnapshot]) -> tuple[Part, ...]:
    return tuple(
        Part(s.upstream_model, s.credential, s.circuit, s.opens_in_s, s.cooldown_s, s.latched, s.refused) for s in snapshots
    )


def target_rows(
    provider: Provider, targets: Mapping[str, Target], snapshots: Sequence[DeploymentSnapshot], checked: str | None
) -> list[Row]:
    """One row a model, those of the chains first: healthy, degraded, down, unknown or disabled by its last attempts, and why.

    Of others, which callers may name as they like, the MAX_OTHERS that were tried last. `checked`: when the provider was, in RFC 3339.
    """
    by_model: dict[str, list[DeploymentSnapshot]] = {name: [] for name in targets}
    for snapshot in snapshots:
        by_model.setdefault(snapshot.upstream_model, []).append(snapshot)
    others = by_model.keys() - targets.keys()
    if len(others) > MAX_OTHERS:
        others = set(sorted(others, key=lambda model: max(map(_tried, by_model[model])))[-MAX_OTHERS:])
    names = [*targets, *sorted(others)]
    return [
        _target(provider.disabled or (targets[name].disabled if name in targets else None), name, by_model[name], checked)
        for name in names
    ]


def _tried(snapshot: DeploymentSnapshot) -> float:
    return max(snapshot.last_ok or 0.0, snapshot.last_fail or 0.0)


def _target(disabled: str | None, model: str, snapshots: list[DeploymentSnapshot], checked: str | None) -> Row:
    """Several keys are shown as one: the worst of their states, the sum of their counts."""
    states = [_state(snapshot) for snapshot in snapshots]
    row: Row = {
        "model": model,
        "state": "disabled" if disabled else _together([state for state, _ in states]),
        "reason": disabled or next((reason for _, reason in states if reason), None),
        "circuit": "closed",
        "cooldown_s": 0.0,
        "latched": None,
        "in_flight": 0,
        "ok": 0,
        "failed": 0,
        "latency_ms": None,
        "last_check": checked,
    }
    latencies = []
    for snapshot in snapshots:
        row["circuit"] = max(row["circuit"], snapshot.circuit, key=CIRCUITS.index)
        row["cooldown_s"] = max(row["cooldown_s"], round(snapshot.cooldown_s, 3))
        row["latched"] = row["latched"] or snapshot.latched
        row["in_flight"] += snapshot.in_flight
        row["ok"] += snapshot.ok
        row["failed"] += snapshot.failed
        if snapshot.latency_s is not None:
            latencies.append(snapshot.latency_s)
    if latencies:
        row["latency_ms"] = round(1000 * sum(latencies) / len(latencies), 1)
    return row


def _state(snapshot: DeploymentSnapshot) -> tuple[str, str | None]:
    """Of one key at one target."""
    if snapshot.latched:
        return "down", snapshot.latched
    if snapshot.circuit == "open":
        return "down", "circuit open"
    if snapshot.circuit == "half_open":
        return "degraded", "circuit half open"
    if snapshot.cooldown_s > 0:
        return "degraded", f"cooling down {snapshot.cooldown_s:.0f} s"
    if snapshot.last_ok is None and snapshot.last_fail is None:
        return "unknown", None
    if snapshot.last_ok is None or (snapshot.last_fail is not None and snapshot.last_fail > snapshot.last_ok):
        return "degraded", "the last attempt failed"
    return "healthy", None


def _together(states: list[str]) -> str:
    """Of several parts: what they agree on, else degraded; those of which nothing is known do not count."""
    known = {state for state in states if state not in ("unknown", "disabled")}
    if not known:
        return "unknown"
    return known.pop() if len(known) == 1 else "degraded"
