"""Stanza + catalogue + environment -> `Provider`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from proxy.config.catalogue import UNKNOWN, Stanza, known_as
from proxy.config.check import is_metadata_host
from proxy.config.draft import Draft
from proxy.config.faults import Path, did_you_mean, one_line
from proxy.config.schema import BudgetSection, HealthSection, ProviderSection
from proxy.config.targets import NO_SECTION, rate_limits
from proxy.core.limits import Budget, HealthSettings, Quota, Unit
from proxy.core.money import usd_to_nusd
from proxy.core.target import NO_CREDENTIAL, Credential, Provider, Quirks, Secret

PROVIDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
OWN_HEADERS = frozenset(
    "accept-encoding connection content-length content-type host keep-alive te trailer transfer-encoding upgrade".split()
)
PROXY_SCHEMES = {"native": ("http",), "httpx": ("http", "https", "socks5", "socks5h")}


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a cloud a service stands. `variables` say it where the stanza does not, first one set wins; then `default`."""

    variables: tuple[str, ...]
    form: re.Pattern[str]
    example: str
    default: str | None = None


PLACES = {
    "region": Place(("AWS_REGION", "AWS_DEFAULT_REGION"), re.compile(r"[a-z]{2,4}(-[a-z]+)+-[0-9]+"), "us-east-1"),
    # an older project may stand within a domain: example.com:my-project
    "project": Place(
        ("GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"), re.compile(r"([a-z0-9.-]+:)?[a-z0-9][a-z0-9-]{0,62}"), "my-project"
    ),
    "location": Place(
        ("GOOGLE_CLOUD_LOCATION", "GOOGLE_CLOUD_REGION"), re.compile(r"[a-z][a-z0-9-]{0,62}"), "europe-west1", default="global"
    ),
}
DIALECT_PLACES = {"bedrock": ("region",), "vertex": ("project", "location")}
SERVICE_ACCOUNTS = frozenset(("vertex",))  # whose keys are not sent, but tokens are made from them


def build_provider(name: str, section: ProviderSection | None, mentioned: Path, draft: Draft) -> tuple[Provider, list[Secret]]:
    """The provider, disabled with a reason where it cannot be used, and the secrets that it holds.

    `mentioned`: where the file names it first, for faults of a provider that has no stanza.
    """
    return _Builder(name, section, mentioned, draft).build()


class _Builder:
    def __init__(self, name: str, section: ProviderSection | None, mentioned: Path, draft: Draft) -> None:
        self.name = name
        self.section = section or NO_SECTION
        self.path: Path = ("providers", name) if section is not None else mentioned
        self.has_stanza = section is not None
        self.draft = draft
        self.known = known_as(draft.catalogue, name, self.section.dialect, addressed=self.section.base_url is not None)
        self.facts: Stanza = self.known or UNKNOWN
        self.dialect = self.section.dialect or self.facts.dialect
        self.disabled: str | None = None
        self.secrets: list[Secret] = []
        self.places: dict[str, str] = {}

    def build(self) -> tuple[Provider, list[Secret]]:
        section, facts = self.section, self.facts
        if not PROVIDER_NAME.fullmatch(self.name):
            self.draft.fault(
                self.path, f"'{one_line(self.name)}' cannot name a provider (use letters, digits, '.', '_' and '-')", at_key=True
            )
        self._check_dialect()
        # what is known of a provider goes for its own format; for any other, what the catalogue says of the format's namesake
        as_known = self.dialect == facts.dialect
        manners = facts if as_known else self.draft.catalogue.get(self.dialect, UNKNOWN)
        self._find_places()
        base_url = self._base_url(manners)
        credentials = self._credentials()
        if not section.enabled:
            self.disabled = "disabled in the file"
        transport = "demo" if facts.transport == "demo" else section.transport or facts.transport
        if facts.retired and not self.disabled:
            self.draft.warn(self.path, f"provider '{self.name}': {facts.retired}", at_key=self.has_stanza)
        provider = Provider(
            name=self.name,
            dialect=self.dialect,
            base_url=base_url,
            credentials=credentials,
            auth_header=manners.auth_header,
            auth_prefix=manners.auth_prefix,
            headers={**manners.headers, **self._headers()},
            api_version=section.api_version,
            transport=transport,
            proxy_url=self._proxy(transport),
            ca_file=self._ca_file(),
            model_list_path=manners.models_path,
            check_url=_check_url(manners, base_url),
            quirks=facts.quirks if as_known else Quirks(),
            lacks=facts.lacks if as_known else frozenset(),
            price_source=facts.price_source,
            limits=rate_limits(section.limits),
            budget=budget_of(section.budget),
            quotas=self._quotas(),
            health=health_settings(self.draft.file.health, section.health),
            region=self.places.get("region"),
            project=self.places.get("project"),
            location=self.places.get("location"),
            signs=self.dialect in SERVICE_ACCOUNTS or (self.dialect == "bedrock" and credentials == (NO_CREDENTIAL,)),
            drain_on_disconnect=section.drain_on_disconnect,
            disabled=self.disabled,
        )
        return provider, self.secrets

    def _find_places(self) -> None:
        """Where in a cloud the service stands, as far as the dialect needs it: from the stanza, else from the cloud's variables."""
        values = self.draft.environment.values
        for name, place in PLACES.items():
            path, origin = (*self.path, name), name
            found: str | None = getattr(self.section, name)
            if name not in DIALECT_PLACES.get(self.dialect, ()):
                if found is not None and name == "region":
                    self.places[name] = found.strip()
                elif found is not None:
                    self.draft.warn(path, f"'{name}' means nothing to dialect {self.dialect} (remove it)", at_key=True)
                continue
            if found is None:
                path = self.path
                origin = next((variable for variable in place.variables if values.get(variable, "").strip()), name)
                found = values.get(origin, "").strip() or place.default
            if found is None:
                if name == "project" or not self._is_addressed():
                    self._disable(f"no {name}: write {name} or set {' or '.join(place.variables)}", warn=True)
            elif not place.form.fullmatch(found):
                self.draft.fault(path, f"{origin}: '{one_line(found)}' cannot be one (write such as {place.example})")
            else:
                self.places[name] = found

    def _is_addressed(self) -> bool:
        """Where the service stands is said by its address, and not the address by where it stands."""
        values = self.draft.environment.values
        return self.section.base_url is not None or any(values.get(name, "").strip() for name in self.facts.base_url_env)

    def _disable(self, reason: str, *, warn: bool) -> None:
        """The first reason is told."""
        if self.disabled is None:
            self.disabled = reason
            if warn and self.has_stanza and self.section.enabled:
                self.draft.warn(self.path, f"provider '{self.name}' is disabled: {reason}", at_key=True)

    def _check_dialect(self) -> None:
        section = self.section
        if self.known is None:
            unsaid = [name for name in ("dialect", "base_url") if getattr(section, name) is None]
            if unsaid:
                near = did_you_mean(self.name, self.draft.catalogue) if len(unsaid) == 2 else ""
                examples = {"dialect": "dialect: openai", "base_url": "base_url: http://10.0.0.5:8000/v1"}
                advice = near or f" (write {' and '.join(examples[name] for name in unsaid)})"
                message = f"provider '{one_line(self.name)}' is not in the catalogue and does not say its {' and '.join(unsaid)}"
                self.draft.fault(self.path, message + advice, at_key=True)
        elif self.dialect != self.facts.dialect and section.base_url is None:
            self.draft.fault(
                (*self.path, "dialect"),
                f"dialect: the known address of '{self.name}' speaks {self.facts.dialect}"
                f" (write the base_url that speaks {self.dialect})",
            )

    def _base_url(self, manners: Stanza) -> str:
        """Without the end that some write by habit and that the dialect's own path would repeat."""
        url = self._given_url()
        for end in manners.base_url_trim:
            url = url.removesuffix(end)
        return url

    def _given_url(self) -> str:
        if self.section.base_url is not None:
            return self._checked_url(self.section.base_url, (*self.path, "base_url"), "base_url")
        for variable in self.facts.base_url_env:
            if value := self.draft.environment.values.get(variable, "").strip():
                if "://" not in value:
                    value = f"http://{value}"  # addresses of local servers are often written as host:port
                url = self._checked_url(value, self.path, variable)
                parts = urlsplit_or_none(self.facts.base_url or "")
                given = urlsplit_or_none(url)
                return url + (parts.path if parts and given and not given.path else "")
        if self.facts.base_url is not None:
            return self._placed(self.facts.base_url)
        if self.known is not None:
            variables = " or ".join(self.facts.base_url_env)
            self._disable(f"no address: {f'set {variables} or ' if variables else ''}write base_url", warn=True)
        return ""

    def _placed(self, url: str) -> str:
        """The catalogue's address with the place in it; none where the place is unknown, which disables the provider."""
        for place in self.places.values():
            if place in self.facts.place_urls:
                return self.facts.place_urls[place]
        try:
            return url.format_map(self.places)
        except KeyError:
            return ""

    def _checked_url(self, url: str, path: Path, origin: str) -> str:
        """Without a slash at the end. The fault never shows the address, which may hold a password."""
        fault = url_fault(url, ("http", "https"))
        if fault is None:
            parts = urlsplit(url)
            if parts.username is not None or parts.password is not None:
                fault = "holds a user or password (write the key as api_key)"
            elif parts.query or parts.fragment:
                fault = "holds a query or fragment (write the part before it; Azure's version goes into api_version)"
            elif is_metadata_host(parts.hostname or "") and not self.section.allow_private:
                fault = "is an address where clouds hand out credentials (write another, or allow_private: true if it is meant)"
        if fault is not None:
            self.draft.fault(path, f"{origin} {fault}")
        return url.rstrip("/")

    def _credentials(self) -> tuple[Credential, ...]:
        section, path = self.section, self.path
        if section.api_key is not None and section.api_keys is not None:
            self.draft.fault((*path, "api_keys"), "both api_key and api_keys are written (keep one of them)", at_key=True)
        written: list[tuple[Path, str]] = []
        if section.api_keys is not None:
            written = [((*path, "api_keys", index), key) for index, key in enumerate(section.api_keys)]
            if not written:
                self.draft.fault(
                    (*path, "api_keys"), 'api_keys lists nothing (write ["${KEY_A}", "${KEY_B}"], or remove the line)'
                )
        elif section.api_key is not None:
            written = [((*path, "api_key"), section.api_key)]
        if written:
            return self._written_credentials(written)
        if self.facts.key == "none" or (*path, "api_key") in self.draft.cut or (*path, "api_keys") in self.draft.cut:
            return (NO_CREDENTIAL,)
        return self._known_credentials()

    def _written_credentials(self, written: list[tuple[Path, str]]) -> tuple[Credential, ...]:
        found: dict[str, Credential] = {}
        reasons: list[str] = []
        for place, text in written:
            if place in self.draft.unset:
                reasons += self.draft.unset[place]
                continue
            secret = self._secret(text, place)
            if secret is None:
                continue
            if secret.fingerprint() in found:
                self.draft.warn(place, "this key is listed twice (remove one)")
            found[secret.fingerprint()] = Credential(secret.fingerprint(), secret)
            if place in self.draft.literal:
                self.draft.warn(place, "a key is written out in the file (better: keep it in a variable, ${NAME})")
        if not found:
            missing = [reason.removesuffix(" is not set") for reason in reasons if reason.endswith(" is not set")]
            why = f"set {' or '.join(missing)}" if missing else ", ".join(reasons) or "none is set"
            self._disable(f"no key: {why}", warn=True)
        elif reasons and self.section.enabled:
            lost = f"provider '{self.name}' goes on with {len(found)} of {len(written)} keys: {', '.join(reasons)}"
            self.draft.warn((*self.path, "api_keys"), lost)
        return tuple(found.values())

    def _secret(self, text: str, place: Path) -> Secret | None:
        text = self._key_text(text)
        if not text:
            self.draft.fault(place, "a key cannot be empty (write a variable such as ${NAME}, or remove the line)")
            return None
        if fault := self._key_fault(text):
            self.draft.fault(place, f"the key {fault} (copy it anew)")
            return None
        secret = Secret(text)
        self.secrets.append(secret)
        return secret

    def _key_text(self, text: str) -> str:
        """A service account's key may be the content of its file, which is JSON on many lines: made one, its own key known as secret."""
        text = text.strip()
        if self.dialect in SERVICE_ACCOUNTS and text.startswith("{"):
            try:
                account = json.loads(text)
            except (ValueError, RecursionError):
                return text
            private = account.get("private_key")
            if isinstance(private, str) and private:
                self.secrets += [Secret(private), Secret(json.dumps(private)[1:-1])]
            return json.dumps(account)
        return text

    def _key_fault(self, text: str) -> str | None:
        if self.dialect in SERVICE_ACCOUNTS and text.startswith("{") and not text.endswith("}"):
            return "begins as a service account's file does and is not all of it"
        return None if text.isascii() and text.isprintable() else "holds characters that no header may carry"

    def _known_credentials(self) -> tuple[Credential, ...]:
        """The first variable that the catalogue names and that is set."""
        for variable in self.facts.key_env:
            text = self._key_text(self.draft.environment.values.get(variable, ""))
            if not text:
                continue
            if fault := self._key_fault(text):
                self._disable(f"no key: {variable} {fault}", warn=True)
                return ()
            secret = Secret(text)
            self.secrets.append(secret)
            return (Credential(secret.fingerprint(), secret),)
        if self.facts.key == "required":
            self._disable(f"no key: set {' or '.join(self.facts.key_env) or 'api_key'}", warn=True)
            return ()
        return (NO_CREDENTIAL,)

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for name, value in self.section.headers.items():
            place = (*self.path, "headers", name)
            if not HEADER_NAME.fullmatch(name) or name.lower() in OWN_HEADERS:
                self.draft.fault(place, f"'{one_line(name)}' cannot be set as a header (remove it)", at_key=True)
            elif not (value.isascii() and value.isprintable()):
                self.draft.fault(place, f"the header '{name}' holds characters that no header may carry (write printable ASCII)")
            else:
                headers[name.lower()] = value
                if value and place not in self.draft.literal:
                    self.secrets.append(Secret(value))
        return headers

    def _proxy(self, transport: str) -> Secret | None:
        if self.section.proxy is None or transport == "demo":
            return None
        place = (*self.path, "proxy")
        schemes = PROXY_SCHEMES[transport]
        if fault := url_fault(self.section.proxy, schemes):
            more = "; for another kind of proxy also write transport: httpx" if transport == "native" else ""
            self.draft.fault(place, f"proxy {fault.removesuffix(')')}{more})")
        secret = Secret(self.section.proxy)
        parts = urlsplit_or_none(self.section.proxy)
        if parts and parts.password:
            self.secrets += [secret, Secret(parts.password)]
        return secret

    def _quotas(self) -> tuple[Quota, ...]:
        quotas: list[Quota] = []
        for index, section in enumerate(self.section.quotas):
            path: Path = (*self.path, "quotas", index)
            if (section.requests is None) == (section.tokens is None):
                self.draft.fault(path, "a quota is of requests or of tokens (write one of the two)")
                continue
            unit: Unit = "tokens" if section.requests is None else "requests"
            limit = section.tokens or section.requests or 0
            quotas.append(Quota(unit, limit, section.per, section.time_zone, section.hour, section.each_key))
        return tuple(quotas)

    def _ca_file(self) -> str | None:
        if self.section.ca_file is None:
            return None
        file = self.draft.base / self.section.ca_file
        try:
            with file.open("rb"):
                pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a path"
            self.draft.fault((*self.path, "ca_file"), f"ca_file: cannot be read: {reason} (write the path of a PEM file)")
        return str(file)


def budget_of(section: BudgetSection | None) -> Budget | None:
    return None if section is None else Budget(usd_to_nusd(section.usd), section.per, section.hard)


def health_settings(*levels: HealthSection) -> HealthSettings:
    """The last level that says something wins."""
    said: dict[str, Any] = {}
    for level in levels:
        said |= {name: value for name, value in vars(level).items() if value is not None}
    durations = ("interval", "timeout", "slow")
    return HealthSettings(**{f"{name}_s" if name in durations else name: value for name, value in said.items()})


def _check_url(manners: Stanza, base_url: str) -> str | None:
    """An address of its own holds for the provider's own service only: elsewhere the key is not the one that it knows."""
    path = manners.check_path
    if path is None or path.startswith("/"):
        return path and base_url + path
    return path if base_url == manners.base_url else None


def urlsplit_or_none(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def url_fault(url: str, schemes: tuple[str, ...]) -> str | None:
    parts = urlsplit_or_none(url)
    starts = " or ".join(f"{scheme}://" for scheme in schemes)
    if parts is None or not parts.hostname or parts.scheme not in schemes:
        return f"is not an address (write one that starts with {starts})"
    if not url.isprintable() or any(character.isspace() for character in url) or not parts.path.isascii():
        return f"holds characters that must be percent-encoded (write one that starts with {starts})"
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        return f"has a host that is not valid (write one that starts with {starts})"
    return None
