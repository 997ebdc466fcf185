"""The providers that are known by name: `proxy/catalogue.yaml`, data only.

A stanza: `dialect, base_url` (may hold {region} or {location})`, place_urls` (place -> another base_url)`, base_url_env[],
base_url_trim[], key_env[], key` (required, optional or none)`, auth_header, auth_prefix, headers, models_path, check_path,
price_source, quirks, lacks[], models` (name or pattern -> context, max_output, reasoning, lacks[], capabilities[], quirks)`, retired`
(it still works, but not for long), and for people `docs, region_urls, verified, unverified`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from proxy.core.target import Prefix, Quirks

CATALOGUE = Path(__file__).parent.parent / "catalogue.yaml"
FOR_PEOPLE = frozenset(("docs", "region_urls", "verified", "unverified"))


@dataclass(frozen=True, slots=True)
class ModelFacts:
    context: int | None = None
    max_output: int | None = None
    reasoning: bool = False
    lacks: frozenset[str] = frozenset()
    capabilities: frozenset[str] | None = None
    quirks: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stanza:
    """What is known of a provider. `key`: whether it needs one. `models`: facts by model name or pattern."""

    dialect: str = "openai"
    base_url: str | None = None
    place_urls: Mapping[str, str] = field(default_factory=dict)
    base_url_env: tuple[str, ...] = ()
    base_url_trim: tuple[str, ...] = ()
    key_env: tuple[str, ...] = ()
    key: Literal["required", "optional", "none"] = "optional"
    auth_header: str = "authorization"
    auth_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict)
    models_path: str | None = "/models"
    check_path: str | None = None
    price_source: str | None = None
    quirks: Quirks = field(default_factory=Quirks)
    lacks: frozenset[str] = frozenset()
    models: Mapping[str, ModelFacts] = field(default_factory=dict)
    transport: Literal["native", "httpx", "demo"] = "native"
    retired: str | None = None

    @property
    def placed(self) -> bool:
        """One service that stands in many places: its address is made of the place's name."""
        return self.base_url is not None and "{" in self.base_url


DEMO_ADDRESS = "http://demo.invalid"
"""Never connected to: the demo answers by itself. A real URL, so that it is built like any other."""

UNKNOWN = Stanza()
"""What a provider starts from whose name the catalogue does not know."""


def known_as(catalogue: Mapping[str, Stanza], name: str, dialect: str | None, *, addressed: bool) -> Stanza | None:
    """What is known of a provider: by its name, or, for another name without an address, by the cloud's dialect that it speaks, so
    that `bedrock-eu: {dialect: bedrock, region: eu-west-1}` is Bedrock in a second place. None: nothing."""
    own = catalogue.get(name)
    if own is not None or addressed or dialect is None:
        return own
    service = catalogue.get(dialect)
    return service if service is not None and service.placed else None


def with_quirks(base: Quirks, more: Mapping[str, Any]) -> Quirks:
    """A provider's quirks with a model's laid over them: names add up, the rest is replaced."""
    if not more:
        return base
    changes = dict(more)
    if "rename" in changes:
        changes["rename"] = {**base.rename, **(changes["rename"] or {})}
    for name in ("drop", "refuse", "drop_in_messages"):
        if name in changes:
            changes[name] = getattr(base, name) | frozenset(changes[name] or ())
    if changes.get("prefix") is not None:
        changes["prefix"] = Prefix(**changes["prefix"])
    return replace(base, **changes)


class _Catalogue(Mapping[str, Stanza]):
    """A stanza is made when somebody asks for it: a configuration names few of them, and their models are most of the file."""

    def __init__(self, nodes: Mapping[str, yaml.Node]) -> None:
        self._nodes = nodes
        self._made: dict[str, Stanza] = {}
        self._constructor = yaml.constructor.SafeConstructor()

    def __getitem__(self, name: str) -> Stanza:
        made = self._made.get(name)
        if made is None:
            made = _stanza(name, self._constructor.construct_document(self._nodes[name]) or {})
            made = self._made[name] = replace(made, base_url=DEMO_ADDRESS) if name == "demo" else made
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


@lru_cache(maxsize=4)
def load_catalogue(path: Path = CATALOGUE) -> Mapping[str, Stanza]:
    """A stanza that is not as above raises ValueError or TypeError when it is asked for: the file is ours, and its tests ask for all."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=loader)
    assert root is not None
    return _Catalogue({key.value: value for key, value in root.value})


def _stanza(name: str, raw: Mapping[str, Any]) -> Stanza:
    values = {key: value for key, value in raw.items() if key not in FOR_PEOPLE and value is not None}
    try:
        values["quirks"] = with_quirks(Quirks(), values.get("quirks", {}))
        values["models"] = {model: _facts(facts or {}) for model, facts in values.get("models", {}).items()}
        values["lacks"] = frozenset(values.get("lacks", ()))
        for key in ("base_url_env", "base_url_trim", "key_env"):
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
    for name in ("lacks", "capabilities"):
        if values.get(name) is not None:
            values[name] = frozenset(values[name])
    return ModelFacts(**values)
