"""Which points in time a vault holds, and what each is made of. Pure.

A point is one snapshot in one archive. Its chain goes from a full stream through
increments to it, by GUID; the links may lie in one archive (compound streams) or in
many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.errors import DamagedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from standfast.backup.model import Manifest
    from standfast.backup.proof import Archive

# A vault with an increment every five minutes for ten years.
_LONGEST_CHAIN = 1_100_000


@dataclass(frozen=True)
class Point:
    """A snapshot as one archive brings it.

    Attributes:
        name: ``pool/fs@snap``, as the sender called it.
        guid: the snapshot's.
        from_guid: of what it is incremental from, or 0.
        kind: filesystem, volume or other.
        archive: id of the archive.
        part: number of the substream in the archive.
        time: when the archive was signed, seconds since 1970.
        sequence: the signer's number of the archive.
    """

    name: str
    guid: int
    from_guid: int
    kind: str
    archive: str
    part: int
    time: int
    sequence: int

    @property
    def dataset(self) -> str:
        """The name without the snapshot."""
        return self.name.partition("@")[0]


class Catalogue:
    """The points of a vault, oldest first.

    Args:
        archives: committed ones.
        manifests: theirs, by archive id.
    """

    def __init__(
        self, archives: Iterable[Archive], manifests: Mapping[str, Manifest]
    ) -> None:
        self._manifests = manifests
        self._archives = [a for a in archives if a.id in manifests]
        found = [p for a in self._archives for p in _points(a, manifests[a.id])]
        self.points: Sequence[Point] = sorted(found, key=_order)
        self._by_guid: dict[int, list[Point]] = {}
        for point in self.points:
            self._by_guid.setdefault(point.guid, []).append(point)

    def latest(self) -> list[Point]:
        """Return one point for each snapshot: the archive of it that came last."""
        last = {guid: points[-1] for guid, points in self._by_guid.items()}
        return [p for p in self.points if last[p.guid] is p]

    def of_guid(self, guid: int) -> Point | None:
        """Return the last point of a snapshot's guid."""
        points = self._by_guid.get(guid)
        return points[-1] if points else None

    def find(self, wanted: str) -> Point:
        """Return the point that a person means.

        Args:
            wanted: ``DATASET@SNAPSHOT``, the last of that name; or an archive by
                its name, its id or the beginning of it.

        Raises:
            UsageError: there is none, or there are several.
        """
        named = [point for point in self.points if point.name == wanted]
        if named:
            return named[-1]
        from standfast.backup.plan import choose_archive  # noqa: PLC0415 - one use

        archive = choose_archive(wanted, self._archives, self._manifests)
        stream = self._manifests[archive.id].stream
        if stream is None:
            raise UsageError(
                f"{wanted} is no send stream: there are no files to be seen in it",
                hint="`standfast backup restore --output FILE` gets it back",
            )
        own = [p for p in self.points if p.archive == archive.id]
        main = [p for p in own if str(p.guid) == stream.guid]
        return (main or own)[-1]

    def chain(self, point: Point) -> list[Point]:
        """Return the points from a full stream to this one.

        Raises:
            DamagedError: a link is in no archive of the vault.
        """
        found = [point]
        seen = {(point.archive, point.part)}
        while (wanted := found[-1].from_guid) != 0:
            links = [
                p
                for p in self._by_guid.get(wanted, ())
                if (p.archive, p.part) not in seen
            ]
            if not links or len(found) > _LONGEST_CHAIN:
                raise DamagedError(
                    f"{found[-1].name} is an increment on snapshot {wanted}, "
                    "which is in no archive here that counts",
                    hint="`standfast backup verify VAULT` says what is missing",
                )
            # A full one makes the shortest chain; else what came just before.
            whole = [p for p in links if p.from_guid == 0]
            near = [p for p in links if p.archive == found[-1].archive]
            link = (near or whole or links)[-1]
            seen.add((link.archive, link.part))
            found.append(link)
        return found[::-1]


def _points(archive: Archive, manifest: Manifest) -> list[Point]:
    if manifest.stream is None or archive.statement is None:
        return []
    return [
        Point(
            name=part.name,
            guid=int(part.guid),
            from_guid=int(part.from_guid),
            kind=part.kind,
            archive=archive.id,
            part=number,
            time=archive.statement.time,
            sequence=archive.statement.sequence,
        )
        for number, part in enumerate(manifest.stream.substreams)
    ]


def _order(point: Point) -> tuple[int, int, str, int]:
    return point.time, point.sequence, point.archive, point.part
