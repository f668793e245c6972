"""Which archive follows which: planning increments, and finding the way back. Pure.

Everything goes by GUID. A name can be given again, a GUID cannot: a snapshot that
was destroyed and made anew under its old name is another one, and an increment on
the wrong one cannot be received.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.proof import COMMITTED
from standfast.backup.sums import NONE
from standfast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from standfast.backup.proof import Archive
    from standfast.zfs.listing import Dataset, Listing, Point

SEND = "send"
NOTHING = "nothing"


@dataclass(frozen=True)
class Mark:
    """An archive of a dataset that this machine knows of.

    Attributes:
        guid: the snapshot that the archive ends with.
        archive: its id.
        sums: SHA-256 of its ``SHA256SUMS``.
        raw: it is a raw stream; what follows must be one too.
        large: it holds blocks above 128 KiB, sent with ``-L``.
    """

    guid: int
    archive: str
    sums: str
    raw: bool = False
    large: bool = False


@dataclass(frozen=True)
class Request:
    """What is to be sent.

    Attributes:
        dataset: its name.
        snapshot: the snapshot's name without its dataset; empty for the newest.
        full: send it whole, whatever the vault has.
        origin: ``@SNAPSHOT`` or ``#BOOKMARK`` to start from; empty to choose.
        between: keep the snapshots in between as well.
        tree: the dataset with all below it.
        flags: for zfs send.
        finish: GUIDs of snapshots whose interrupted send can be gone on with.
    """

    dataset: str
    snapshot: str = ""
    full: bool = False
    origin: str = ""
    between: bool = False
    tree: bool = False
    flags: tuple[str, ...] = ()
    finish: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ChainPlan:
    """The next archive of a dataset, or why there is none to make.

    Attributes:
        action: SEND or NOTHING.
        dataset: what is sent.
        target: the snapshot.
        base: what the stream is incremental from; None for a full one.
        mark: the archive of the base; with NOTHING the one that has the target.
        raw: the stream will be raw.
        more: after this archive, plan again: another one is to follow.
        why: one sentence.
        bases: every GUID that a substream may start from.
    """

    action: str
    dataset: Dataset
    target: Point
    base: Point | None
    mark: Mark | None
    raw: bool
    more: bool
    why: str
    bases: frozenset[int] = frozenset()


def plan_chain(
    listing: Listing,
    marks: Sequence[Mark],
    held: Mapping[str, str],
    request: Request,
    kept: frozenset[int] | None = None,
) -> ChainPlan:
    """Choose what to send of one dataset, and what it may build on.

    Args:
        listing: at least the dataset (for a tree, all below it).
        marks: the archives of this dataset that this machine knows of.
        held: archive id -> SHA-256 of its sums, for every archive that the vault
            was proven to have, with all that it builds on.
        request: what is wanted.
        kept: for a tree, GUIDs of the snapshots that our holds have kept since they
            were sent.

    Raises:
        UsageError: what is wanted is not there, or cannot follow what the vault has.
    """
    planner = _Planner(listing, marks, held, request, kept)
    return planner.plan()


class _Planner:
    """One decision, step by step."""

    def __init__(
        self,
        listing: Listing,
        marks: Sequence[Mark],
        held: Mapping[str, str],
        request: Request,
        kept: frozenset[int] | None,
    ) -> None:
        self._request = request
        self._listing = listing
        self._dataset = listing.dataset(request.dataset)
        self._kept = kept
        self._raw = self._dataset.encrypted and _has(request.flags, "w")
        self._marks: dict[int, list[Mark]] = {}
        for mark in marks:
            if held.get(mark.archive) == mark.sums:
                self._marks.setdefault(mark.guid, []).append(mark)

    def plan(self) -> ChainPlan:
        target = self._target()
        if self._request.full:
            return self._full(target, "full: asked for")
        has = self._fitting(target)
        if has and not self._request.origin:
            return self._nothing(target, has[0])
        base = self._base(target)
        if base is None:
            return self._first(target)
        return self._increment(target, *base)

    def _target(self) -> Point:
        snapshots = self._dataset.snapshots
        if not snapshots:
            raise UsageError(
                f"{self._dataset.name} has no snapshot",
                hint=f"`zfs snapshot {self._dataset.name}@NAME` makes one",
            )
        if not self._request.snapshot:
            return self._unfinished() or snapshots[-1]
        name = f"{self._dataset.name}@{self._request.snapshot}"
        for point in snapshots:
            if point.name == name:
                return point
        raise UsageError(
            f"there is no snapshot {name}",
            hint="`zfs list -t snapshot` lists them",
        )

    def _unfinished(self) -> Point | None:
        """Return a snapshot whose send was interrupted, if none later was sent."""
        done = [p.createtxg for p in self._dataset.points if p.guid in self._marks]
        last = max(done, default=-1)
        for point in reversed(self._dataset.snapshots):
            if point.guid in self._request.finish and point.createtxg > last:
                return point
        return None

    def _fitting(self, point: Point) -> list[Mark]:
        """Return the archives of a point that a stream of our kind may follow."""
        return [m for m in self._marks.get(point.guid, ()) if m.raw == self._raw]

    def _base(self, target: Point) -> tuple[Point, Mark] | None:
        if self._request.origin:
            return self._given(target)
        mixed = replaced = False
        for point in reversed(self._dataset.points):
            if point.createtxg >= target.createtxg or point.guid not in self._marks:
                continue
            if self._request.tree and (
                point.is_bookmark or self._tree_bases(point) is None
            ):
                replaced = True
                continue
            fitting = self._fitting(point)
            if fitting:
                return self._snapshot_of(point), fitting[0]
            mixed = True
        if mixed:
            self._refuse_mixture()
        if replaced:
            raise UsageError(
                f"a snapshot below {self._dataset.name} was replaced since it was "
                "sent, or is kept by a bookmark only",
                hint="pass --full to begin a new chain",
            )
        return None

    def _snapshot_of(self, point: Point) -> Point:
        """Return the snapshot itself rather than a bookmark of it."""
        for other in self._dataset.snapshots:
            if other.guid == point.guid:
                return other
        return point

    def _given(self, target: Point) -> tuple[Point, Mark]:
        wanted = self._dataset.name + self._request.origin
        found = [p for p in self._dataset.points if p.name == wanted]
        if not found:
            raise UsageError(
                f"there is no {wanted} to start from",
                hint="`standfast backup marks list` shows what the vault has",
            )
        base = found[0]
        if base.guid not in self._marks:
            raise UsageError(
                f"the vault has no whole archive of {wanted}, so nothing can follow it",
                hint="leave out --from to start from the newest that it has",
            )
        if base.createtxg >= target.createtxg:
            raise UsageError(f"{wanted} is not older than {target.name}")
        if not self._fitting(base):
            self._refuse_mixture()
        if self._request.tree and (base.is_bookmark or self._tree_bases(base) is None):
            raise UsageError(
                f"{wanted} cannot be the base of a tree",
                hint="a tree needs the snapshots themselves, unchanged since",
            )
        return base, self._fitting(base)[0]

    def _refuse_mixture(self) -> None:
        is_raw, wanted = ("raw", "is not") if not self._raw else ("not raw", "is")
        raise UsageError(
            f"what the vault has of {self._dataset.name} is {is_raw}, and what was "
            f"asked for {wanted}: raw and other streams cannot follow each other",
            hint=("pass --raw as before" if not self._raw else "leave out --raw")
            + ", or pass --full to begin a new chain",
        )

    def _first(self, target: Point) -> ChainPlan:
        why = "full: the vault has nothing of this dataset that is still here"
        if not self._marks:
            why = "full: the vault has nothing of this dataset yet"
        oldest = self._dataset.snapshots[0]
        if self._request.between and not self._request.tree and oldest != target:
            why += "; the oldest snapshot first, then all that follow"
            return self._full(oldest, why, more=True)
        return self._full(target, why)

    def _full(self, target: Point, why: str, *, more: bool = False) -> ChainPlan:
        more = more or self._resumes(target)
        return ChainPlan(SEND, self._dataset, target, None, None, self._raw, more, why)

    def _resumes(self, target: Point) -> bool:
        """Whether the target is not the newest: then that one is to follow."""
        newest = self._dataset.snapshots[-1]
        return not self._request.snapshot and target.guid != newest.guid

    def _nothing(self, target: Point, mark: Mark) -> ChainPlan:
        why = f"nothing to send: the vault has {target.name} as archive {mark.archive}"
        return ChainPlan(
            NOTHING, self._dataset, target, None, mark, self._raw, more=False, why=why
        )

    def _increment(self, target: Point, base: Point, mark: Mark) -> ChainPlan:
        if mark.large and not self._raw and not _has(self._request.flags, "L"):
            raise UsageError(
                f"{base.name} was sent with large blocks, and what follows must be too",
                hint="pass --send-flag=-L as before",
            )
        more = self._resumes(target)
        if self._request.between and base.is_bookmark:
            # zfs send -I needs a snapshot; a bookmark leads to the next of them.
            following = [
                p for p in self._dataset.snapshots if p.createtxg > base.createtxg
            ]
            more = more or following[0] != target
            target = following[0]
        bases = frozenset([base.guid])
        if self._request.tree:
            bases = self._tree_bases(base) or bases
        return ChainPlan(
            action=SEND,
            dataset=self._dataset,
            target=target,
            base=base,
            mark=mark,
            raw=self._raw,
            more=more,
            why=f"incremental: the vault has {base.name} as archive {mark.archive}",
            bases=bases,
        )

    def _tree_bases(self, base: Point) -> frozenset[int] | None:
        """Return the GUIDs of a tree's snapshots of one name, or None.

        None if one of them is not the one that was sent: our hold would have kept
        it from being destroyed, so one without that hold is another.
        """
        found = [
            point
            for dataset in self._listing.below(self._dataset.name)
            for point in dataset.snapshots
            if point.short == base.short
        ]
        guids = frozenset(point.guid for point in found)
        return guids if self._kept is not None and guids <= self._kept else None


def _has(flags: Sequence[str], letter: str) -> bool:
    """Return whether a one-letter flag is among zfs's flags."""
    names = {"w": "--raw", "L": "--large-block"}
    return any(
        flag == names[letter] or (flag[1:2] != "-" and letter in flag[1:])
        for flag in flags
    )


def whole_chains(archives: Iterable[Archive]) -> dict[str, str]:
    """Return archive id -> SHA-256 of its sums, for those that can be built on.

    They are committed, and so is everything down to a full one.
    """
    by_id = {a.id: a for a in archives if a.standing == COMMITTED and a.statement}
    known: dict[str, bool] = {}
    for start in by_id:
        path: list[str] = []
        at = start
        while at not in known and at in by_id and at not in path:
            path.append(at)
            statement = by_id[at].statement
            base = statement.base if statement else ""
            at = "" if base in {"", NONE} else base
        good = at == "" or known.get(at, False)
        known.update(dict.fromkeys(path, good))
    return {a: by_id[a].sums_digest for a, good in known.items() if good}
