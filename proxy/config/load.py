"""`providers.yaml` + environment + catalogue -> `Settings`, or every fault at once.

    text -> data with marks (source) -> variables filled in (environment) -> typed (schema) -> laid over the catalogue (resolve)

What a step cannot use is cut out and the rest goes on, so that one wrong key does not hide the next fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path as FilePath
from typing import Any, TypedDict, cast

from pydantic import ValidationError

from proxy.config.catalogue import Stanza, load_catalogue
from proxy.config.check import warn_of_expired
from proxy.config.draft import Draft, secret_kind
from proxy.config.environment import BadVariable, Environment, parse_env
from proxy.config.faults import ConfigError as ConfigError
from proxy.config.faults import ConfigFault as ConfigFault
from proxy.config.faults import Path
from proxy.config.key_rules import with_keys
from proxy.config.key_store import KeysBroken, KeyStore
from proxy.config.keyring import NO_KEYS
from proxy.config.messages import Details, describe, file_path
from proxy.config.resolve import resolve
from proxy.config.schema import File
from proxy.config.settings import Settings
from proxy.config.source import MAX_FILE_BYTES, TOO_LARGE, read_yaml

MAX_ROUNDS = 20
_SOME_TARGET = "demo/chat"


class Overrides(TypedDict, total=False):
    """What the command line says; it wins over variables and file. `data_dir` is relative to the working directory."""

    host: str | None
    port: int | None
    data_dir: FilePath | None
    log_level: str | None


VARIABLES = {
    "host": "TOLLBRIDGE_HOST",
    "port": "TOLLBRIDGE_PORT",
    "data_dir": "TOLLBRIDGE_DATA_DIR",
    "log_level": "TOLLBRIDGE_LOG_LEVEL",
}


def load(
    path: FilePath | None,
    *,
    environ: Mapping[str, str],
    env_file: FilePath | None = None,
    overrides: Overrides | None = None,
    catalogue: Mapping[str, Stanza] | None = None,
    wall: Callable[[], float] = time.time,
) -> Settings:
    """Raises ConfigError with all faults. Without a path there is only the demo provider. Runtime keys that cannot be read are no fault of
    the file: `Settings.keys_problem` says so, and nobody is let in for want of them."""
    name = str(path) if path else "providers.yaml"
    base = path.parent if path else FilePath()
    values, env_path, env_faults = _environment(base, env_file, environ)
    source = read_yaml(_read(path) if path else "", name)
    source.faults += env_faults
    if source.data is not None and not isinstance(source.data, dict):
        source.fault((), "the file must be a mapping (write keys such as chains: at the beginning of a line)")
        source.data = None
    environment = Environment(values, base)
    draft = Draft(
        source=source,
        file=File.model_construct(),
        environment=environment,
        catalogue=load_catalogue() if catalogue is None else catalogue,
        base=base,
    )
    data = _expand(source.data or {}, (), draft)
    draft.file = _validate(data, draft)
    flags: Mapping[str, Any] = overrides or {}
    effective = {key: values.get(variable) or None for key, variable in VARIABLES.items()}
    effective |= {key: value for key, value in flags.items() if value is not None}
    if path is None:
        draft.warn((), "there is no such file, so only the demo provider answers (write one, or name another with --config)")
    now_s = wall()
    warn_of_expired(draft, now_s)
    settings = resolve(draft, effective, path, env_path)
    if source.faults:
        raise ConfigError(source.faults)
    now_ms = round(now_s * 1000)
    try:
        return with_keys(settings, KeyStore(settings.data_dir).read(), now_ms=now_ms)
    except KeysBroken as error:
        return with_keys(settings, NO_KEYS, now_ms=now_ms, problem=str(error))


def _read(path: FilePath) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(4 * MAX_FILE_BYTES + 1)  # whatever it is the wrong file of, a device for one
        if len(data) > 4 * MAX_FILE_BYTES:
            raise ConfigError([ConfigFault(str(path), 1, 1, TOO_LARGE)])
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError([ConfigFault(str(path), line, 1, "not UTF-8 text (save the file as UTF-8)")]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise ConfigError([ConfigFault(str(path), 1, 1, f"cannot be read: {reason} (name another with --config)")]) from None


def _environment(
    base: FilePath, env_file: FilePath | None, environ: Mapping[str, str]
) -> tuple[dict[str, str], FilePath, list[ConfigFault]]:
    """The variables in force, the real ones over those of the `.env`."""
    path = env_file or base / ".env"
    try:
        values, faults = parse_env(path.read_bytes().decode("utf-8"), str(path))
    except UnicodeDecodeError:
        values, faults = {}, [ConfigFault(str(path), 1, 1, "not UTF-8 text (save the file as UTF-8)")]
    except (OSError, ValueError) as error:
        values, faults = {}, []
        if env_file is not None or not isinstance(error, FileNotFoundError | NotADirectoryError):
            reason = getattr(error, "strerror", None) or "not a path"
            faults = [ConfigFault(str(path), 1, 1, f"cannot be read: {reason} (name another with --env-file)")]
    return {**values, **environ}, path, faults


def _expand(value: Any, path: Path, draft: Draft) -> Any:
    """The data with its variables filled in. What could not be is noted in the draft, and stands as an empty text."""
    match value:
        case dict():
            return {key: _expand(item, (*path, key), draft) for key, item in value.items()}
        case list():
            return [_expand(item, (*path, index), draft) for index, item in enumerate(value)]
        case None if secret_kind(path):
            draft.fault(path, f"'{path[-1]}' is empty (write a variable such as ${{NAME}}, or remove the line)")
            draft.cut.add(path)
            return ""
        case str():
            return _expand_text(value, path, draft)
        case _:
            return value


def _expand_text(text: str, path: Path, draft: Draft) -> str:
    try:
        expanded = draft.environment.expand(text)
    except BadVariable as error:
        draft.fault(path, str(error))
        draft.cut.add(path)
        return ""
    kind = secret_kind(path)
    if kind and expanded.exposed:
        files = " ".join(expanded.exposed)
        draft.warn(path, f"every user of this machine may read or change a secret in a file (chmod 600 {files})")
    reasons = tuple(expanded.missing)
    if not expanded.variables:
        draft.literal.add(path)
    elif kind and not reasons and not expanded.text.strip():
        if kind == "token" and expanded.defaulted:
            draft.unset[path] = ()
            return ""
        reasons = (f"{text} is empty",)
    if not reasons:
        return expanded.text
    if kind == "credential" or (kind == "token" and expanded.missing):
        draft.unset[path] = reasons
        return ""
    match kind:
        case "client":
            advice = "set it, or remove the client"
        case "token":
            advice = "set it, or remove the line"
        case _:
            advice = "set it, or write ${NAME:-default}"
    draft.fault(path, f"{', '.join(reasons)} ({advice})")
    draft.cut.add(path)
    return ""


def _validate(data: dict[str, Any], draft: Draft) -> File:
    """The typed file. Faulty parts are reported in the first round, cut out, and the rest is read again."""
    report = True
    for path in draft.cut:
        _remove(data, path)
    cut_before = set(draft.cut)
    for _ in range(MAX_ROUNDS):
        try:
            return File.model_validate(data)
        except ValidationError as error:
            for raw in error.errors(include_url=False, include_input=False):
                details = cast("Details", raw)
                path = file_path(details["loc"])
                missing = details["type"] == "missing"
                if report and not (missing and any(cut[: len(path) - 1] == path[:-1] for cut in cut_before)):
                    message = draft.environment.told(describe(details, path, _at(data, path)))
                    draft.source.fault(path, message, at_key=details["type"] == "extra_forbidden")
                gone = path[:-1] if missing else path
                draft.cut.add(gone)
            for path in sorted(draft.cut, key=len, reverse=True):
                _remove(data, path)
            report = False
    return File()


def _remove(data: Any, path: Path) -> None:
    """Takes out a key; an item of a list goes with its list, so that the others keep their places. A target gives way to one that is
    right, so that what is wrong with the others is told as well."""
    if path[:1] == ("chains",) and isinstance(path[-1], int) and isinstance(targets := _at(data, path[:-1]), list):
        targets[path[-1]] = _SOME_TARGET
        return
    while path and isinstance(path[-1], int):
        path = path[:-1]
    if not path:
        if isinstance(data, dict):
            data.clear()
        return
    parent = _at(data, path[:-1])
    if isinstance(parent, dict):
        parent.pop(path[-1], None)


def _at(data: Any, path: Path) -> Any:
    for element in path:
        if isinstance(data, dict):
            data = data.get(element)
        elif isinstance(data, list) and isinstance(element, int) and element < len(data):
            data = data[element]
        else:
            return None
    return data
