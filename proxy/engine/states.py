"""How providers and targets are doing, as far as live traffic tells: what the admin API shows."""

from __future__ import annotations

from typing import Any

from proxy.config.settings import Settings
from proxy.core.target import Provider, Target
from proxy.routing.deployment import Deployments, DeploymentSnapshot

_CIRCUITS = ["closed", "half_open", "open"]


def provider_states(settings: Settings, deployments: Deployments, now: float) -> list[dict[str, Any]]:
    """One entry a provider in the file's order, with its targets: healthy, degraded, down, unknown or disabled, and why."""
    by_provider: dict[str, list[DeploymentSnapshot]] = {}
    for snapshot in deployments.snapshot(now):
        by_provider.setdefault(snapshot.provider, []).append(snapshot)
    targets: dict[str, dict[str, Target]] = {}
    for chain in settings.chains.values():
        for target in chain.targets:
            targets.setdefault(target.provider.name, {}).setdefault(target.upstream_model, target)
    return [
        _provider(provider, targets.get(provider.name, {}), by_provider.get(provider.name, []))
        for provider in settings.providers.values()
    ]


def _provider(provider: Provider, targets: dict[str, Target], snapshots: list[DeploymentSnapshot]) -> dict[str, Any]:
    names = [*targets, *sorted({s.upstream_model for s in snapshots} - targets.keys())]
    rows = [_target(provider, name, targets.get(name), [s for s in snapshots if s.upstream_model == name]) for name in names]
    return {
        "name": provider.name,
        "state": "disabled" if provider.disabled else _together([row["state"] for row in rows]),
        "reason": provider.disabled,
        "dialect": provider.dialect,
        "keys": len([credential for credential in provider.credentials if credential.secret is not None]),
        "last_check": None,
        "targets": rows,
    }


def _target(provider: Provider, model: str, target: Target | None, snapshots: list[DeploymentSnapshot]) -> dict[str, Any]:
    disabled = provider.disabled or (target.disabled if target is not None else None)
    states = [_state(snapshot) for snapshot in snapshots]
    latencies = [snapshot.latency_s for snapshot in snapshots if snapshot.latency_s is not None]
    return {
        "model": model,
        "state": "disabled" if disabled else _together([state for state, _ in states]),
        "reason": disabled or next((reason for _, reason in states if reason), None),
        "circuit": max((s.circuit for s in snapshots), key=_CIRCUITS.index, default="closed"),
        "cooldown_s": round(max((s.cooldown_s for s in snapshots), default=0.0), 3),
        "latched": next((s.latched for s in snapshots if s.latched), None),
        "in_flight": sum(s.in_flight for s in snapshots),
        "ok": sum(s.ok for s in snapshots),
        "failed": sum(s.failed for s in snapshots),
        "latency_ms": round(1000 * sum(latencies) / len(latencies), 1) if latencies else None,
        "last_check": None,
    }


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
