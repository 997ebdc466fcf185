"""What stands in the file and can have no effect there: no fault, but whoever wrote it expects something of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from proxy.config.draft import Draft
from proxy.config.faults import Path, one_line
from proxy.config.schema import CacheSection, ChainSection, Section, TargetSection

_SHARED_BY_WEIGHT = ("weighted", "sticky")


def warn_of_no_effect(chains: Mapping[str, ChainSection], draft: Draft) -> None:
    _warn_of_idle_cache((), draft.file.cache, draft)
    for name, chain in chains.items():
        path: Path = ("chains", name)
        asked = _asked(chain)
        _warn_of_want_of_targets(path, chain, asked, draft)
        _warn_of_idle_weights(path, chain, draft)
        _warn_of_idle_cache(path, chain.cache, draft)
        if chain.cache is not None and chain.cache.enabled is not False and chain.targets and not asked:
            draft.warn(
                (*path, "cache"), f"{_which(name)} has static answers alone, which are not kept (remove cache:)", at_key=True
            )


def _asked(chain: ChainSection) -> frozenset[str]:
    """The targets that somebody is asked at; a static answer is nobody's."""
    texts = [target if isinstance(target, str) else target.target for target in chain.targets]
    return frozenset(text for text in texts if text is not None)


def _which(name: object) -> str:
    return f"chain '{one_line(str(name))}'"


def _warn_of_want_of_targets(path: Path, chain: ChainSection, asked: frozenset[str], draft: Draft) -> None:
    if len(asked) > 1 or not chain.targets:
        return
    needs = (
        ("strategy", chain.strategy != "order", f"strategy: {chain.strategy} has nothing to choose among"),
        ("hedge", chain.hedge is not None, "hedge: has nobody else to ask"),
        ("on_break", chain.on_break == "continue", "on_break: continue has nobody to go on with"),
    )
    for key, written, why in needs:
        if written:
            has = "only one target" if asked else "no target to ask"
            draft.warn((*path, key), f"{_which(path[1])} has {has}, so {why} (add another target, or remove {key}:)", at_key=True)


def _warn_of_idle_weights(path: Path, chain: ChainSection, draft: Draft) -> None:
    """Whoever writes `strategy: order` out has set the weights aside on purpose."""
    if chain.strategy == "order" and "strategy" in chain.model_fields_set:
        return
    if chain.strategy != "score" and _written(chain.weights):
        draft.warn(
            (*path, "weights"), "weights: counts under strategy: score alone (write that, or remove weights:)", at_key=True
        )
    if chain.strategy in _SHARED_BY_WEIGHT:
        return
    in_list = ("targets",) if (*path, "targets") in draft.source.marks else ()
    for index, target in enumerate(chain.targets):
        if isinstance(target, TargetSection) and "weight" in target.model_fields_set:
            draft.warn(
                (*path, *in_list, index, "weight"),
                f"weight: counts under strategy: {' and '.join(_SHARED_BY_WEIGHT)} alone (write one of them, or remove weight:)",
                at_key=True,
            )


def _warn_of_idle_cache(path: Path, section: CacheSection | None, draft: Draft) -> None:
    if section is None or section.enabled is not False:
        return
    others = [name for name in _written(section) if name != "enabled"]
    if others:
        draft.warn(
            (*path, "cache", others[0]),
            f"cache: is switched off, so {_all(others)} {'count' if len(others) > 1 else 'counts'} for nothing (remove enabled: false, "
            f"or {'them' if len(others) > 1 else 'it'})",
            at_key=True,
        )


def _written(section: Section) -> list[str]:
    return [name for name, value in vars(section).items() if value is not None]


def _all(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
