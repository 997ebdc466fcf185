"""The typed file, laid over catalogue and environment -> `Settings`. Faults and warnings are left in the draft."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path as FilePath
from typing import Any

from proxy.config.check import calls_itself, check_judges, warn_of_mixed_embeddings
from proxy.config.choosing import cache_of, chain_cache, hedge_of, quality_of, weights_of
from proxy.config.draft import Draft
from proxy.config.faults import Path, did_you_mean, one_line
from proxy.config.idle import warn_of_no_effect
from proxy.config.patterns import literal_length
from proxy.config.providers import budget_of, build_provider, health_settings
from proxy.config.schema import AuthSection, ChainSection, ClientSection, File, ShareSection, TargetSection, Tuning
from proxy.config.settings import (
    AUTO,
    ChainTemplate,
    ClientSettings,
    PerAddress,
    ServerSettings,
    Settings,
    fingerprint,
    usable,
)
from proxy.config.targets import TargetFactory, lay_over, rate_limits, static_target
from proxy.config.telling import alerts_of, ledger_of, retention_of
from proxy.core.limits import Budget
from proxy.core.names import MAX_MODEL_BYTES, is_model_name
from proxy.core.target import DEFAULT_FAILOVER_ON, STATIC, CacheSettings, Chain, Provider, Secret, Target

CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
LOG_LEVELS = ("debug", "info", "warning", "error")
_SECRET = frozenset(("api_key", "api_keys", "proxy", "headers"))  # keys of a provider that may hold one


@dataclass(frozen=True, slots=True)
class _Step:
    """A target as written in a chain: split, but not yet built."""

    provider: str
    model: str
    tuning: tuple[Tuning, ...]
    path: Path
    answer: str | None = None  # of a static target

    def build(self, factory: TargetFactory, part: str | None = None) -> Target:
        """`part` is what the `*` of the chain's name stands for."""
        if self.answer is not None:
            return static_target(self.answer)
        return factory.make(self.provider, self.model if part is None else self.model.replace("*", part), self.tuning)

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"


def resolve(draft: Draft, effective: Mapping[str, Any], path: FilePath | None, env_path: FilePath) -> Settings:
    """`effective`: host, port, data_dir and log_level from flags or variables. When the draft has faults the result is of no use."""
    file = draft.file
    chains = {name: _as_section(chain) for name, chain in file.chains.items()}
    steps = {name: _steps(name, chain, draft) for name, chain in chains.items()}
    server = _server(draft, effective)
    providers, secrets = _providers(steps, server, draft)
    for each in steps.values():
        each[:] = [step for step in each if step.provider in providers or step.answer is not None]
    listed = frozenset((step.provider, step.model) for each in steps.values() for step in each if "*" not in step.model)
    factory = TargetFactory(file, draft.catalogue, providers, listed)
    _check_circuits(draft)
    exact: dict[str, Chain] = {}
    templates: list[tuple[str, ChainTemplate]] = []
    for name, chain in chains.items():
        targets = [step.build(factory) for step in steps[name]]
        warn_of_mixed_embeddings(name, zip([step.path for step in steps[name]], targets, strict=True), draft)
        if "*" in name:
            bare = _chain(name, chain, [], draft)
            make = _maker(bare, steps[name], factory)
            templates.append((name, ChainTemplate(name, make, tuple(step.name for step in steps[name]), bare.quality)))
        else:
            exact[name] = _chain(name, chain, targets, draft)
    templates.sort(key=lambda named: -literal_length(named[0]))
    admin, metrics, pepper = _tokens(draft, secrets)
    clients, by_digest = _clients(draft, admin, secrets)
    _warn_of_idle_chains(exact, draft)
    warn_of_no_effect(chains, draft)
    data_dir = FilePath(effective["data_dir"]) if effective.get("data_dir") else draft.base / (file.data_dir or "data")
    auth_none = file.auth == "none"
    wildcards = [(name, template.targets, chains[name].written()) for name, template in templates]
    models = {name: section.written(but=_SECRET) for name, section in file.providers.items()}
    cache, auto = cache_of(file.cache), _auto(file, exact, factory, chain_cache(None, file.cache))
    budgets = (budget_of(file.budget), _budgets(file.departments), _budgets(file.agents))
    retention, ledger, alerts = retention_of(file.retention), ledger_of(file.ledger), alerts_of(file.alerts, draft, secrets)
    settings = Settings(
        hash=fingerprint(
            (
                (server, auth_none, admin, metrics, providers, exact, wildcards, models, file.defaults.written(), clients),
                (budgets, retention, ledger, alerts, pepper, cache, auto),
            )
        ),
        path=path,
        data_dir=data_dir,
        server=server,
        admin_token=admin,
        metrics_token=metrics,
        auth_none=auth_none,
        providers=providers,
        chains=exact,
        wildcards=tuple(templates),
        clients=clients,
        clients_by_digest=by_digest,
        key_pepper=pepper,
        needs_key=bool(clients),
        budget=budgets[0],
        departments=budgets[1],
        agents=budgets[2],
        retention=retention,
        ledger=ledger,
        health=health_settings(file.health),
        alerts=alerts,
        # what an anchor stands for is read wherever it is used, and written in one place
        warnings=tuple(dict.fromkeys(map(str, sorted(draft.warned, key=lambda warning: (warning.line, warning.col))))),
        files=(*((path,) if path else ()), env_path, *sorted(draft.environment.files_read)),
        known_secrets=tuple(secrets),
        direct=factory.make,
        cache=cache,
        auto=auto,
    )
    check_judges(settings, draft)
    return settings


def _as_section(chain: ChainSection | list[str | TargetSection]) -> ChainSection:
    return ChainSection.model_construct(targets=chain) if isinstance(chain, list) else chain


def _steps(name: str, chain: ChainSection, draft: Draft) -> list[_Step]:
    path: Path = ("chains", name)
    if not is_model_name(name):
        why = f"names are 1 to {MAX_MODEL_BYTES} bytes of printable text in Unicode's NFC form"
        draft.fault(path, f"nobody could ask for a chain of this name: {why} (write another)", at_key=True)
    if name.count("*") > 1:
        draft.fault(path, f"'{one_line(name)}' holds more than one '*' (keep one)", at_key=True)
    if not chain.targets:
        draft.fault(
            path, f"chain '{one_line(name)}' lists nothing (write at least one target, such as openai/gpt-4o)", at_key=True
        )
    in_list = ("targets",) if (*path, "targets") in draft.source.marks else ()
    steps: list[_Step] = []
    for index, item in enumerate(chain.targets):
        place: Path = (*path, *in_list, index)
        text, own = (item, None) if isinstance(item, str) else (item.target, item)
        if own is not None:
            if (own.target is None) == (own.static is None):
                draft.fault(place, "a target is a model or a static answer (write one of target and static)")
                continue
            if own.static is not None:
                steps.append(_Step("static", "static", (), place, own.static))
                continue
            place = (*place, "target")
        assert text is not None
        if step := _step(text, place, name, (chain, own) if own else (chain,), draft):
            if any((step.provider, step.model) == (other.provider, other.model) for other in steps):
                draft.warn(place, f"'{one_line(text)}' stands in this chain twice (remove one)")
            steps.append(step)
    return steps


def _step(text: str, place: Path, chain_name: str, tuning: tuple[Tuning, ...], draft: Draft) -> _Step | None:
    provider, slash, model = text.partition("/")
    if not slash or not provider or not model:
        known = provider in draft.catalogue or provider in draft.file.providers
        advice = f"write {provider}/MODEL" if known else "write for example openai/gpt-4o"
        draft.fault(place, f"'{one_line(text)}' is not a target, which is provider/model ({advice})")
        return None
    if "*" in provider or model.count("*") > 1:
        draft.fault(place, f"'{one_line(text)}' has its '*' in the wrong place (write one '*', after the provider)")
        return None
    if "*" in model and "*" not in chain_name:
        draft.fault(
            place,
            f"'{one_line(text)}' has a '*', but the chain's name '{one_line(chain_name)}' has none to fill it (write a model's name)",
        )
        return None
    if text != text.strip() or not text.isprintable():
        draft.fault(place, f"'{one_line(text)}' holds white space or control characters (remove them)")
        return None
    return _Step(provider, model, tuning, place)


def _providers(
    steps: Mapping[str, list[_Step]], server: ServerSettings, draft: Draft
) -> tuple[dict[str, Provider], list[Secret]]:
    """Those with a stanza, those that a chain names, and the demo; in the order of the file."""
    stanzas = draft.file.providers
    mentioned: dict[str, Path] = {name: ("providers", name) for name in stanzas}
    if STATIC.name in stanzas:
        draft.fault(
            ("providers", STATIC.name), "'static' is who gives static answers (give the provider another name)", at_key=True
        )
    known = [*draft.catalogue, *stanzas]
    for step in (step for each in steps.values() for step in each if step.answer is None):
        if step.provider in stanzas or step.provider in draft.catalogue:
            mentioned.setdefault(step.provider, step.path)
        elif ("providers", step.provider) not in draft.cut and ("providers",) not in draft.cut:
            advice = did_you_mean(step.provider, known, otherwise=f"add a stanza '{one_line(step.provider)}:' under providers:")
            draft.fault(step.path, f"unknown provider '{one_line(step.provider)}'{advice}")
    mentioned.setdefault("demo", ())
    providers: dict[str, Provider] = {}
    secrets: list[Secret] = []
    for name, path in mentioned.items():
        providers[name], own = build_provider(name, stanzas.get(name), path, draft)
        secrets += own
        if providers[name].enabled and calls_itself(providers[name].base_url, server.host, server.port):
            reason = f"would call itself: the proxy listens on {server.host}:{server.port}"
            providers[name] = replace(providers[name], disabled=reason)
            draft.warn(path, f"provider '{name}' is disabled: {reason} (change base_url or server.port)", at_key=True)
    return providers, secrets


def _chain(name: str, section: ChainSection, targets: list[Target], draft: Draft) -> Chain:
    path: Path = ("chains", name)
    return Chain(
        name=name,
        targets=tuple(targets),
        failover_on=DEFAULT_FAILOVER_ON if section.failover_on is None else frozenset(section.failover_on),
        strict=section.strict,
        on_break=section.on_break,
        strategy=section.strategy,
        weights=weights_of(section.weights, (*path, "weights"), draft),
        cache=chain_cache(section.cache, draft.file.cache),
        quality=quality_of(section.quality, (*path, "quality"), draft),
        hedge=hedge_of(section.hedge),
    )


def _maker(chain: Chain, steps: list[_Step], factory: TargetFactory) -> Callable[[str], Chain]:
    def make(part: str) -> Chain:
        return replace(chain, targets=tuple([step.build(factory, part) for step in steps]))

    return make


def _auto(file: File, chains: Mapping[str, Chain], factory: TargetFactory, cache: CacheSettings | None) -> Chain | None:
    """All targets that the file names, in chains and then under `models:`, but for the demo's and static ones. None if there are none."""
    targets = {target.name: target for chain in chains.values() for target in chain.targets}
    for name, section in file.providers.items():
        for model in section.models:
            if "*" not in model and name in factory.providers and f"{name}/{model}" not in targets:
                targets[f"{name}/{model}"] = factory.make(name, model)
    real = [target for target in targets.values() if target.provider.transport not in ("demo", "static")]
    return Chain(AUTO, tuple(real), strategy="score", cache=cache) if real else None


def _check_circuits(draft: Draft) -> None:
    """`open_max` below `open` on the levels that all targets share; a nearer one is capped by what it is laid over."""
    file = draft.file
    levels: list[tuple[Path, list[Tuning]]] = [(("defaults",), [file.defaults])]
    levels += [(("providers", name), [file.defaults, section]) for name, section in file.providers.items()]
    for path, tunings in levels:
        _, circuit, _ = lay_over(tunings)
        if tunings[-1].circuit.model_fields_set & {"open", "open_max"} and circuit.open_max_s < circuit.open_s:
            draft.fault(
                (*path, "circuit"),
                f"circuit: open ({circuit.open_s:g}s) is longer than open_max ({circuit.open_max_s:g}s) (raise open_max)",
                at_key=True,
            )


def _tokens(draft: Draft, secrets: list[Secret]) -> tuple[Secret | None, Secret | None, Secret | None]:
    """The admin's, the scraper's, and the pepper of the runtime keys."""
    auth = draft.file.auth
    if not isinstance(auth, AuthSection):
        return None, None, None
    tokens: list[Secret | None] = []
    written = (("admin_token", auth.admin_token), ("metrics_token", auth.metrics_token), ("key_pepper", auth.key_pepper))
    for name, text in written:
        path: Path = ("auth", name)
        token = None
        if text is not None and path not in draft.unset:
            token = _token(text, path, draft)
        if token is not None:
            secrets.append(token)
            if path in draft.literal:
                draft.warn(path, "a token is written out in the file (better: keep it in a variable, ${NAME})")
        tokens.append(token)
    if tokens[0] is not None and tokens[0] == tokens[1]:
        draft.fault(("auth", "metrics_token"), "the same as admin_token (write another: this one must open /metrics only)")
    return tokens[0], tokens[1], tokens[2]


def _token(text: str, path: Path, draft: Draft) -> Secret | None:
    text = text.strip()
    if not text:
        draft.fault(path, f"'{path[-1]}' is empty (write a variable such as ${{NAME}}, or remove the line)")
        return None
    if not (text.isascii() and text.isprintable()):
        draft.fault(path, "holds characters that no header may carry (write printable ASCII)")
        return None
    return Secret(text)


def _clients(
    draft: Draft, admin: Secret | None, secrets: list[Secret]
) -> tuple[dict[str, ClientSettings], dict[bytes, ClientSettings]]:
    clients: dict[str, ClientSettings] = {}
    by_digest: dict[bytes, ClientSettings] = {}
    for name, section in draft.file.clients.items():
        path: Path = ("clients", name)
        if not CLIENT_NAME.fullmatch(name):
            draft.fault(
                path, f"'{one_line(name)}' cannot name a client (use letters, digits, '.', '_', '-' and '@')", at_key=True
            )
        for index, chain in enumerate(section.chains or ()):
            if chain != AUTO and chain not in draft.file.chains and ("chains", chain) not in draft.cut:
                advice = did_you_mean(chain, draft.file.chains, otherwise="write the name of a chain of this file")
                draft.fault((*path, "chains", index), f"unknown chain '{one_line(chain)}'{advice}")
        keys = _client_keys(section, path, draft)
        digests: set[bytes] = set()
        for place, key in keys:
            digest = hashlib.sha256(key.reveal().encode()).digest()
            if (other := by_digest.get(digest)) is not None:
                draft.fault(place, f"client '{other.name}' has the same key (give each its own)")
            if key == admin:
                draft.fault(place, "the same as auth.admin_token (give the client a key of its own)")
            digests.add(digest)
        client = ClientSettings(
            name=name,
            key_digests=frozenset(digests),
            department=section.department,
            agent=section.agent,
            chains=None if section.chains is None else frozenset(section.chains),
            budget=budget_of(section.budget),
            limits=rate_limits(section.limits),
            models=None if section.models is None else tuple(section.models),
            expires_s=section.expires,
        )
        clients[name] = client
        by_digest |= dict.fromkeys(digests, client)
        secrets += [key for _, key in keys]
    return clients, by_digest


def _client_keys(section: ClientSection, path: Path, draft: Draft) -> list[tuple[Path, Secret]]:
    name = str(path[-1])
    if section.key is not None and section.keys is not None:
        draft.fault((*path, "keys"), "both key and keys are written (keep one of them)", at_key=True)
    written = [((*path, "keys", index), key) for index, key in enumerate(section.keys or ())]
    if section.key is not None:
        written.insert(0, ((*path, "key"), section.key))
    if not written:
        variable = re.sub(r"[^A-Z0-9]", "_", name.upper())[:40]
        draft.fault(path, f"client '{one_line(name)}' has no key (write key: ${{{variable}_KEY}})", at_key=True)
    found: list[tuple[Path, Secret]] = []
    for place, text in written:
        secret = _token(text, place, draft)
        if secret is None:
            continue
        if place in draft.literal:
            draft.warn(place, "a key is written out in the file (better: keep it in a variable, ${NAME})")
        found.append((place, secret))
    return found


def _budgets(shares: Mapping[str, ShareSection]) -> dict[str, Budget]:
    found = {name: budget_of(share.budget) for name, share in shares.items()}
    return {name: budget for name, budget in found.items() if budget is not None}


def _warn_of_idle_chains(chains: Mapping[str, Chain], draft: Draft) -> None:
    for name, chain in chains.items():
        if chain.targets and not any(map(usable, chain.targets)):
            reasons = {target.provider.name: target.provider.disabled or target.disabled for target in chain.targets}
            told = "; ".join(f"{provider}: {reason}" for provider, reason in reasons.items())
            draft.warn(("chains", name), f"no target of chain '{one_line(name)}' can be used ({told})", at_key=True)


def _server(draft: Draft, effective: Mapping[str, Any]) -> ServerSettings:
    section = draft.file.server
    default = ServerSettings()
    log_level = effective.get("log_level") or section.log_level or default.log_level
    if log_level not in LOG_LEVELS:
        advice = did_you_mean(str(log_level), LOG_LEVELS, otherwise="write info")
        draft.source.fault((), f"log level '{one_line(str(log_level))}' is none{advice}")
    port = effective.get("port")
    try:
        port = (default.port if section.port is None else section.port) if port is None else int(port)
        if not 0 <= port <= 65535:
            raise ValueError
    except ValueError:
        draft.source.fault((), f"port '{one_line(str(port))}' is none (write a number from 0 to 65535)")
        port = default.port
    return ServerSettings(
        host=effective.get("host") or section.host or default.host,
        port=port,
        max_body_bytes=section.max_body or default.max_body_bytes,
        cors_origins=tuple(_origins(section.cors_origins, draft)),
        log_level=log_level,
        drain_delay_s=default.drain_delay_s if section.drain.delay is None else section.drain.delay,
        drain_timeout_s=default.drain_timeout_s if section.drain.timeout is None else section.drain.timeout,
        max_in_flight=section.max_in_flight or default.max_in_flight,
        max_wait_s=default.max_wait_s if section.max_wait is None else section.max_wait,
        per_ip=PerAddress(section.per_ip.connections, section.per_ip.in_flight),
        trusted_proxies=tuple(_networks(section.trusted_proxies, draft)),
        allowed_hosts=frozenset(_hosts(section.allowed_hosts, draft)),
    )


def _networks(networks: list[str], draft: Draft) -> list[str]:
    for index, network in enumerate(networks):
        try:
            ip_network(network, strict=False)
        except ValueError:
            draft.fault(
                ("server", "trusted_proxies", index),
                f"'{one_line(network)}' is no address and no network (write 10.0.0.7 or 10.0.0.0/8)",
            )
    return networks


def _hosts(hosts: list[str], draft: Draft) -> list[str]:
    for index, host in enumerate(hosts):
        if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9a-fA-F:]+", host):
            draft.fault(
                ("server", "allowed_hosts", index),
                f"'{one_line(host)}' is not a host name (write it without scheme and port: llm.example.com)",
            )
    return [host.lower() for host in hosts]


def _origins(origins: list[str], draft: Draft) -> list[str]:
    for index, origin in enumerate(origins):
        if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+", origin):
            draft.fault(
                ("server", "cors_origins", index),
                f"'{one_line(origin)}' is not an origin (write scheme and host: https://app.example.com)",
            )
    return origins
