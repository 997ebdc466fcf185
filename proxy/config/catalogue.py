"""The providers that are known by name: `proxy/catalogue.yaml`, data only.

A stanza: `dialect, base_url, base_url_env[], key_env[], key` (required, optional or none)`, auth_header, auth_prefix, headers,
models_path, price_source, quirks, lacks[], models` (name or pattern -> context, max_output, reasoning, capabilities, quirks)`,
unsupported` (why it cannot be used yet)`, retired` (it still works, but not for long), and for people `docs, region_urls, verified,
unverified`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from proxy.core.target import Quirks

CATALOGUE = Path(__file__).parent.parent / "catalogue.yaml"
FOR_PEOPLE = frozenset(("docs", "region_urls", "verified", "unverified"))


@dataclass(frozen=True, slots=True)
class ModelFacts:
    context: int | None = None
    max_output: int | None = None
    reasoning: bool = False
    capabilities: frozenset[str] | None = None
    quirks: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stanza:
    """What is known of a provider. `key`: whether it needs one. `models`: facts by model name or pattern."""

    dialect: str = "openai"
    base_url: str | None = None
    base_url_env: tuple[str, ...] = ()
    key_env: tuple[str, ...] = ()
    key: Literal["required", "optional", "none"] = "optional"
    auth_header: str = "authorization"
    auth_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict)
    models_path: str | None = "/models"
    price_source: str | None = None
    quirks: Quirks = field(default_factory=Quirks)
    lacks: frozenset[str] = frozenset()
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    transport: Literal["native", "httpx", "demo"] = "native"
    unsupported: str | None = None
    retired: str | None = None


DEMO_ADDRESS = "http://demo.invalid"
"""Never connected to: the demo answers by itself. A real URL, so that it is built like any other."""

UNKNOWN = Stanza()
"""What a provider starts from whose name the catalogue does not know."""


def with_quirks(base: Quirks, more: Mapping[str, Any]) -> Quirks:
    """A provider's quirks with a model's laid over them: names add up, the rest is replaced."""
    if not more:
        return base
    changes = dict(more)
    if "rename" in changes:
        changes["rename"] = {**base.rename, **(changes["rename"] or {})}
    for name in ("drop", "refuse"):
        if name in changes:
            changes[name] = getattr(base, name) | frozenset(changes[name] or ())
    return replace(base, **changes)


@lru_cache(maxsize=4)
def load_catalogue(path: Path = CATALOGUE) -> Mapping[str, Stanza]:
    """Raises ValueError or TypeError for a stanza that is not as above: the file is ours, its tests are where that shows."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    data = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 -- it is the safe one, compiled
    stanzas = {name: _stanza(name, raw or {}) for name, raw in data.items()}
    stanzas["demo"] = replace(stanzas["demo"], base_url=DEMO_ADDRESS)
    return stanzas


def _stanza(name: str, raw: Mapping[str, Any]) -> Stanza:
    values = {key: value for key, value in raw.items() if key not in FOR_PEOPLE and value is not None}
    try:
        values["quirks"] = with_quirks(Quirks(), values.get("quirks", {}))
        values["models"] = {model: _facts(facts or {}) for model, facts in values.get("models", {}).items()}
        values["lacks"] = frozenset(values.get("lacks", ()))
        for key in ("base_url_env", "key_env"):
            values[key] = tuple(values.get(key, ()))
        if "base_url" in values:
            values["base_url"] = values["base_url"].rstrip("/")
        if "models_path" in raw and raw["models_path"] is None:
            values["models_path"] = None
        if "auth_header" in values:
            values["auth_header"] = values["auth_header"].lower()
        return Stanza(**values)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"catalogue: {name}: {error}") from error


def _facts(raw: Mapping[str, Any]) -> ModelFacts:
    values = dict(raw)
    if values.get("capabilities") is not None:
        values["capabilities"] = frozenset(values["capabilities"])
    return ModelFacts(**values)
