"""Which datasets a job means. Pure.

In a pattern ``*`` and ``?`` stand for anything within one component of a name, and
``**`` for any number of components. What is excluded is so with all below it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.errors import UsageError
from standfast.zfs.names import check_dataset

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WILD = re.compile(r"\*\*|\*|\?")


@dataclass(frozen=True)
class Wanted:
    """What a job asks for.

    Attributes:
        patterns: names of datasets, perhaps with wildcards.
        exclude: patterns of what is left out, with all below it.
        recursive: whether what lies below a match is meant too.
    """

    patterns: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    recursive: bool = False


@dataclass(frozen=True)
class Selection:
    """What a job gets.

    Attributes:
        datasets: in order of name.
        missing: patterns without a match.
    """

    datasets: tuple[str, ...]
    missing: tuple[str, ...]


def select(present: Iterable[str], wanted: Wanted) -> Selection:
    """Return the datasets that are wanted among those that there are."""
    names = sorted(present)
    out = [_regex(pattern, below=True) for pattern in wanted.exclude]
    chosen: set[str] = set()
    missing: list[str] = []
    for pattern in wanted.patterns:
        exact = _regex(pattern, below=False)
        matched = [name for name in names if exact.fullmatch(name)]
        if not matched:
            missing.append(pattern)
        chosen.update(matched)
        if wanted.recursive:
            deep = _regex(pattern, below=True)
            chosen.update(name for name in names if deep.fullmatch(name))
    kept = (name for name in names if name in chosen)
    return Selection(
        tuple(name for name in kept if not any(r.fullmatch(name) for r in out)),
        tuple(missing),
    )


def roots(patterns: Iterable[str]) -> list[str]:
    """Return the datasets below which all matches lie, none below another."""
    found: set[str] = set()
    for pattern in patterns:
        parts: list[str] = []
        for part in pattern.split("/"):
            if _WILD.search(part):
                break
            parts.append(part)
        found.add("/".join(parts))
    return sorted(
        root
        for root in found
        if root and not any(root.startswith(f"{o}/") for o in found if o)
    )


def check_pattern(pattern: str) -> str:
    """Return a pattern of dataset names.

    Raises:
        UsageError: no dataset can have such a name.
    """
    if "@" in pattern:
        raise UsageError(f"this is a snapshot: {pattern}", hint="name the dataset")
    if _WILD.match(pattern):
        raise UsageError(
            f"a pattern must begin with a pool's name: {pattern}",
            hint="write it like tank/vm/*",
        )
    check_dataset(_WILD.sub("x", pattern))
    return pattern


def snapshot_groups(
    chosen: Sequence[str], present: Iterable[str]
) -> list[tuple[str, ...]]:
    """Return what one ``zfs snapshot`` each can take at one moment.

    Each group is either ``("-r", ROOT)``, where a root and all below it are chosen,
    or the names of datasets of one pool. One command makes its snapshots in one
    transaction of the pool: all of them, or none, of the same moment.
    """
    groups: list[tuple[str, ...]] = []
    by_pool: dict[str, list[str]] = {}
    for name in chosen:
        by_pool.setdefault(name.partition("/")[0], []).append(name)
    everything = sorted(present)
    for names in by_pool.values():
        root = names[0]
        tree = [n for n in everything if n == root or n.startswith(f"{root}/")]
        if len(names) > 1 and set(tree) == set(names):
            groups.append(("-r", root))
        else:
            groups.append(tuple(names))
    return groups


def _regex(pattern: str, *, below: bool) -> re.Pattern[str]:
    text = ""
    position = 0
    for match in _WILD.finditer(pattern):
        text += re.escape(pattern[position : match.start()])
        text += {"**": ".*", "*": "[^/]*", "?": "[^/]"}[match[0]]
        position = match.end()
    text += re.escape(pattern[position:])
    return re.compile(text + ("(/.*)?" if below else ""))
