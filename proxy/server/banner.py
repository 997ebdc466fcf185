"""What the server says when it is ready: who can answer, who cannot and why, and a line to paste."""

from __future__ import annotations

from proxy.config.key_rules import warnings_of
from proxy.config.settings import ChainTemplate, Settings
from proxy.core.target import STATIC, Provider


def banner(settings: Settings, *, version: str, host: str, port: int, started_ms: float) -> str:
    """Plain text. Of a key it shows its last four characters at most. `started_ms`: from the process's start until it answers."""
    url = f"http://{_shown_host(host)}:{port}"
    lines = [f"Tollbridge {version} is ready after {started_ms:.0f} ms: {url}/v1  (the ledger is in {settings.data_dir})", ""]
    usable = [p for p in settings.providers.values() if p.enabled]
    skipped = [p for p in settings.providers.values() if not p.enabled]
    lines += [f"  ready    {p.name:<12} {_keys(p)}" for p in usable]
    lines += [f"  skipped  {p.name:<12} {p.disabled}" for p in skipped]
    lines.append("")
    if settings.chains or settings.wildcards:
        lines += [f"  chain    {_chain(settings, name)}" for name in settings.chains]
        lines += [*[f"  chain    {_wildcard(settings, template)}" for _, template in settings.wildcards], ""]
    if settings.auth_none:
        lines.append("  Auth is off everywhere (`auth: none`): whoever reaches this address may use it.")
    elif not settings.needs_key:
        lines.append(
            "  No clients are listed, so every program on this machine may call; list them under `clients:` to ask for keys."
        )
    lines += [f"  ! {warning}" for warning in (*settings.warnings, *warnings_of(settings))]
    if lines[-1]:
        lines.append("")
    model = _first_model(settings)
    auth = " -H 'Authorization: Bearer YOUR_KEY'" if settings.needs_key and not settings.auth_none else ""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    lines += [
        "  Try it:",
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{auth} -d '{body}'",
        "",
        f"  Watch it: {url}/dashboard",
        "",
    ]
    return "\n".join(lines)


def _keys(provider: Provider) -> str:
    tails = [credential.secret.tail() for credential in provider.credentials if credential.secret is not None]
    if tails:
        return f"key {', '.join(tails)}"
    return "signs with the cloud's credentials" if provider.signs else "needs no key"


def _chain(settings: Settings, name: str) -> str:
    targets = settings.chains[name].targets
    return f"{name:<12} " + " -> ".join([t.name if t.provider.enabled and t.disabled is None else f"({t.name})" for t in targets])


def _wildcard(settings: Settings, template: ChainTemplate) -> str:
    usable = {provider.name for provider in settings.providers.values() if provider.enabled} | {STATIC.name}
    return f"{template.name:<12} " + " -> ".join([t if t.partition("/")[0] in usable else f"({t})" for t in template.targets])


def _first_model(settings: Settings) -> str:
    """The first chain that can answer at all."""
    models = settings.listed_models()
    return models[0][0] if models else "demo/chat"


def _shown_host(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - shown, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
