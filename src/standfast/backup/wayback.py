"""Which archives lead back to a snapshot, and what to take of each. Pure.

Snapshots are found by GUID in what the sealed manifests say; the signed ``base`` of
an archive only says which of several to try first. An archive may hold more than
is wanted: all snapshots in between, or a whole tree. Then parts of it are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.plan import choose_archive
from standfast.errors import DamagedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from standfast.backup.model import Manifest, Substream
    from standfast.backup.proof import Archive


@dataclass(frozen=True)
class Link:
    """One archive of the way back.

    Attributes:
        archive: judged whole and trusted.
        manifest: its manifest.
        parts: indexes of the substreams to take; empty for the stream as it is.
    """

    archive: Archive
    manifest: Manifest
    parts: tuple[int, ...] = ()

    @property
    def taken(self) -> tuple[Substream, ...]:
        """The substreams that are taken, in order; none of other bytes."""
        stream = self.manifest.stream
        if stream is None:
            return ()
        if not self.parts:
            return tuple(stream.substreams)
        return tuple(stream.substreams[i] for i in self.parts)

    @property
    def from_guid(self) -> str:
        """What the first of them is incremental from; ``0`` if nothing."""
        if self.parts:
            return self.taken[0].from_guid
        return "0" if self.manifest.stream is None else self.manifest.stream.from_guid

    @property
    def guid(self) -> str:
        """The snapshot that is there afterwards; empty for other bytes."""
        if self.parts:
            return self.taken[-1].guid
        return "" if self.manifest.stream is None else self.manifest.stream.guid

    @property
    def name(self) -> str:
        """``DATASET@SNAPSHOT`` of that snapshot, or the archive's own name."""
        return self.taken[-1].name if self.parts else self.manifest.name

    @property
    def is_tree(self) -> bool:
        """Whether several datasets come out of it."""
        return len({dataset_of(part.name) for part in self.taken}) > 1


def dataset_of(name: str) -> str:
    """Return the dataset in ``DATASET@SNAPSHOT``."""
    return name.partition("@")[0]


def choose(
    wanted: str, archives: Sequence[Archive], manifests: Mapping[str, Manifest]
) -> Link:
    """Return the archive that a person means, and what of it.

    Args:
        wanted: an archive's id or its beginning, its name, or the name of any
            snapshot that came with it.
        archives: the whole ones.
        manifests: by archive id.

    Raises:
        UsageError: there is no such.
    """
    try:
        archive = choose_archive(wanted, archives, manifests)
    except UsageError:
        found = [link for a in archives for link in _holding(a, manifests, wanted)]
        if not found:
            raise
        return max(found, key=_age)
    if archive.id not in manifests:
        raise UsageError(f"the manifest of {archive.id} cannot be read")
    return Link(archive, manifests[archive.id])


def _holding(
    archive: Archive, manifests: Mapping[str, Manifest], wanted: str
) -> list[Link]:
    """Return an archive cut down to one of its snapshots, by that one's name."""
    manifest = manifests.get(archive.id)
    stream = None if manifest is None else manifest.stream
    if manifest is None or stream is None:
        return []
    return [
        Link(archive, manifest, _parts_up_to(stream.substreams, index))
        for index, part in enumerate(stream.substreams)
        if part.name == wanted
    ]


def _parts_up_to(parts: Sequence[Substream], last: int) -> tuple[int, ...]:
    """Return the indexes of a dataset's substreams up to one of them."""
    dataset = dataset_of(parts[last].name)
    return tuple(
        i
        for i, part in enumerate(parts[: last + 1])
        if dataset_of(part.name) == dataset
    )


def _age(link: Link) -> tuple[int, int]:
    statement = link.archive.statement
    return (statement.time, statement.sequence) if statement else (0, 0)


def way_back(
    last: Link, archives: Sequence[Archive], manifests: Mapping[str, Manifest]
) -> list[Link]:
    """Return the archives to receive, in order, ending with ``last``.

    Of several that hold the same snapshot the one that the signed statement names
    is tried first, then the one sent last.

    Raises:
        DamagedError: no whole archive holds what one of them builds on.
        UsageError: what is wanted is a clone inside of a tree.
    """
    links = _Holders(
        Link(archive, manifests[archive.id])
        for archive in archives
        if archive.id in manifests and manifests[archive.id].stream is not None
    )
    path, trying = [last], [links.before(last)]
    seen = {(last.archive.id, last.guid)}
    while path and path[-1].from_guid not in {"0", ""}:
        candidate = next(trying[-1], None)
        if candidate is None:
            path.pop()
            trying.pop()
        elif (candidate.archive.id, candidate.guid) not in seen:
            # What led nowhere once leads nowhere from elsewhere.
            seen.add((candidate.archive.id, candidate.guid))
            path.append(candidate)
            trying.append(links.before(candidate))
    if path:
        return path[::-1]
    _explain_clone(last)
    raise DamagedError(
        f"{last.name} is an increment, and no whole archive here leads to what it "
        "builds on",
        hint="`standfast backup verify VAULT` shows what is missing",
    )


class _Holders:
    """Which archives hold a snapshot, by its GUID."""

    def __init__(self, links: Iterable[Link]) -> None:
        self._found: dict[str, list[tuple[Link, int]]] = {}
        for link in links:
            for index, part in enumerate(link.taken):
                self._found.setdefault(part.guid, []).append((link, index))

    def before(self, after: Link) -> Iterator[Link]:
        """Yield what leads to the base of a link, the likeliest first."""
        statement = after.archive.statement
        base = statement.base if statement else ""
        found = self._found.get(after.from_guid, [])
        found = sorted(found, key=lambda each: _age(each[0]), reverse=True)
        found.sort(key=lambda each: each[0].archive.id != base)
        for link, index in found:
            cut = _cut(link, index, after)
            if cut is not None:
                yield cut


def _cut(link: Link, index: int, after: Link) -> Link | None:
    """Return what of an archive leads to the base of ``after``, or None."""
    if link.archive.id == after.archive.id:
        return None
    whole = link.guid == after.from_guid
    if after.is_tree or not link.is_tree:
        if whole:
            return link
        if after.is_tree:
            return None
    parts = _parts_up_to(link.taken, index)
    return Link(link.archive, link.manifest, parts)


def _explain_clone(last: Link) -> None:
    stream = last.manifest.stream
    inside = [] if stream is None else [p.guid for p in stream.substreams]
    if last.parts and last.from_guid in inside:
        raise UsageError(
            f"{last.name} is a clone of another dataset of its tree",
            hint=f"restore the whole tree: {last.manifest.name}",
        )
