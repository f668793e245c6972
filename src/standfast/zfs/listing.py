"""Datasets, their snapshots and bookmarks, in a number of commands that is constant.

One ``zfs get`` answers for any number of datasets. What it is asked differs by
release: ``-t`` came with bookmarks (2013), ``encryption`` with OpenZFS 0.8 and
FreeBSD 13. Each refusal costs one more command, three in all at most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from standfast.errors import CommandError, UsageError
from standfast.zfs.names import check_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from standfast.host import Host

_ALWAYS = ("type", "guid", "createtxg", "creation", "userrefs", "referenced")
_TYPES = ("-t", "filesystem,volume,snapshot,bookmark")
_FIELDS = 4
_POINTS = {"snapshot", "bookmark"}


@dataclass(frozen=True)
class Point:
    """A snapshot or a bookmark: what an increment can start from.

    Attributes:
        name: ``DATASET@SNAPSHOT`` or ``DATASET#BOOKMARK``.
        guid: its 64-bit id; a bookmark has that of its snapshot.
        createtxg: when it was made, in the pool's own count; bookmarks have that of
            their snapshot.
        creation: when it was made, Unix seconds.
        holds: how many holds keep it; 0 for a bookmark.
        referenced: bytes that it refers to, on the pool; 0 where zfs does not tell.
    """

    name: str
    guid: int
    createtxg: int
    creation: int = 0
    holds: int = 0
    referenced: int = 0

    @property
    def is_bookmark(self) -> bool:
        """Whether it is no snapshot any more."""
        return "#" in self.name

    @property
    def dataset(self) -> str:
        """The dataset it belongs to."""
        return self.name.replace("#", "@").partition("@")[0]

    @property
    def short(self) -> str:
        """``@SNAPSHOT`` or ``#BOOKMARK``."""
        return self.name[len(self.dataset) :]


@dataclass(frozen=True)
class Dataset:
    """A file system or volume with what hangs on it.

    Attributes:
        name: as zfs calls it now.
        guid: its own, which stays when it is renamed.
        kind: ``filesystem`` or ``volume``.
        encrypted: whether it is encrypted by ZFS; False where zfs knows no such.
        points: snapshots and bookmarks, the oldest first.
        properties: those asked for that were set on this very dataset.
    """

    name: str
    guid: int
    kind: str
    encrypted: bool = False
    points: tuple[Point, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def snapshots(self) -> tuple[Point, ...]:
        """The snapshots alone, the oldest first."""
        return tuple(p for p in self.points if not p.is_bookmark)


@dataclass(frozen=True)
class Listing:
    """What lies below some datasets.

    Attributes:
        datasets: by name, in zfs's own order.
        bookmarks: whether this zfs knows bookmarks at all.
    """

    datasets: Mapping[str, Dataset]
    bookmarks: bool

    def dataset(self, name: str) -> Dataset:
        """Return a dataset.

        Raises:
            UsageError: it is not in the listing.
        """
        if name not in self.datasets:
            raise UsageError(
                f"there is no dataset {name}", hint="`zfs list` lists them"
            )
        return self.datasets[name]

    def below(self, root: str) -> list[Dataset]:
        """Return a dataset and all those below it."""
        return [
            d
            for name, d in self.datasets.items()
            if name == root or name.startswith(f"{root}/")
        ]


def list_tree(
    host: Host,
    roots: Sequence[str],
    properties: Sequence[str] = (),
    *,
    deep: bool = True,
) -> Listing:
    """List datasets, snapshots and bookmarks below some roots.

    Args:
        host: where the pools are.
        roots: names of datasets.
        properties: user properties to read as well.
        deep: also what lies below the roots' children.

    Raises:
        UsageError: a root is no dataset, or is not there.
        CommandError: zfs cannot be asked, or contradicts itself.
    """
    roots = _outermost([check_dataset(root) for root in roots], deep=deep)
    if not roots:
        return Listing({}, bookmarks=False)
    depth = ["-r"] if deep else ["-d", "1"]
    wanted = ",".join([*_ALWAYS, *properties])
    tries = [
        ([*_TYPES], f"{wanted},encryption", True),
        ([*_TYPES], wanted, True),
        ([], wanted, False),
    ]
    complaint = ""
    for types, asked, bookmarks in tries:
        argv = ["zfs", "get", *depth, "-Hp", *types, "-o", "name,property,value,source"]
        result = host.run([*argv, asked, *roots], ok=range(256))
        if result.code == 0:
            text = result.stdout.decode(errors="replace")
            return _read(text, frozenset(properties), bookmarks=bookmarks)
        if "does not exist" in result.stderr:
            raise UsageError(
                result.stderr.splitlines()[0], hint="`zfs list` lists datasets"
            )
        complaint = result.complaint()
        if "invalid" not in result.stderr and "usage" not in result.stderr:
            break
    raise CommandError(complaint)


def _outermost(roots: Sequence[str], *, deep: bool) -> list[str]:
    """Return the roots once each, without those that others list anyway."""
    names = dict.fromkeys(roots)
    if not deep:
        return list(names)
    return [
        name
        for name in names
        if not any(name.startswith(f"{other}/") for other in names)
    ]


def _read(text: str, wanted: frozenset[str], *, bookmarks: bool) -> Listing:
    """Sort the lines of ``zfs get`` by what they speak of."""
    values: dict[str, dict[str, str]] = {}
    for name, key, value, source in _lines(text):
        found = values.setdefault(name, {})
        if key in found:
            # A value with line feeds in it could speak for another dataset.
            raise CommandError(f"zfs get said {key} of {name} twice")
        if key not in wanted or source == "local":
            found[key] = value
    points: dict[str, list[Point]] = {}
    for name, found in values.items():
        if found.get("type") in _POINTS:
            point = _point(name, found)
            points.setdefault(point.dataset, []).append(point)
    datasets = {
        name: Dataset(
            name=name,
            guid=_number(name, found, "guid"),
            kind=found.get("type", ""),
            encrypted=found.get("encryption", "off") not in {"off", "-", ""},
            points=tuple(sorted(points.get(name, ()), key=_age)),
            properties={k: v for k, v in found.items() if k in wanted},
        )
        for name, found in values.items()
        if found.get("type") not in _POINTS
    }
    return Listing(datasets, bookmarks)


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) == _FIELDS:
            yield fields


def _age(point: Point) -> tuple[int, bool]:
    return point.createtxg, point.is_bookmark


def _point(name: str, found: Mapping[str, str]) -> Point:
    return Point(
        name=name,
        guid=_number(name, found, "guid"),
        createtxg=_number(name, found, "createtxg"),
        creation=_number(name, found, "creation"),
        holds=_count(found, "userrefs"),
        referenced=_count(found, "referenced"),
    )


def _count(found: Mapping[str, str], key: str) -> int:
    text = found.get(key, "-")
    return int(text) if text.isdigit() else 0


def _number(name: str, found: Mapping[str, str], key: str) -> int:
    text = found.get(key, "")
    if not text.isdigit():
        raise CommandError(f"zfs get said no {key} of {name}")
    return int(text)
