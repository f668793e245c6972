"""Which datasets of a vault are to be proven by restoring, and from what. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.proof import COMMITTED
from standfast.backup.proven import RESTORE
from standfast.backup.wayback import Link, dataset_of, way_back
from standfast.errors import StandfastError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from standfast.backup.model import Manifest
    from standfast.backup.proof import Archive


@dataclass(frozen=True)
class Exercise:
    """One dataset's newest point, and what leads back to it.

    Attributes:
        name: the dataset, or the name of other bytes.
        way: the archives in order; empty if there is no way.
        trouble: why there is none.
        last: when it was last proven, Unix seconds; 0 if never.
    """

    name: str
    way: tuple[Link, ...]
    trouble: StandfastError | None
    last: int

    @property
    def size(self) -> int:
        """Plaintext bytes of the whole way."""
        return sum(link.manifest.size for link in self.way)

    @property
    def archives(self) -> list[str]:
        """The ids of the archives on the way."""
        return [link.archive.id for link in self.way]


def plan_drill(
    archives: Sequence[Archive],
    manifests: Mapping[str, Manifest],
    proven: Mapping[str, Mapping[str, int]],
    wanted: Sequence[str],
) -> list[Exercise]:
    """Return what is to be restored, the one longest unproven first. Pure.

    Args:
        archives: the vault's, judged.
        manifests: of those that are whole, by id.
        proven: archive id -> kind of proof -> time; see ``proven``.
        wanted: names of datasets; none means all.

    Raises:
        UsageError: the vault has nothing of one of them.
    """
    whole = [a for a in archives if a.standing == COMMITTED and a.id in manifests]
    newest: dict[str, Archive] = {}
    for archive in sorted(whole, key=_age):
        newest[dataset_of(manifests[archive.id].name)] = archive
    for name in wanted:
        if name not in newest:
            raise UsageError(
                f"the vault has no whole archive of {name}",
                hint="`standfast backup list VAULT --identity FILE` shows what it has",
            )
    chosen = [
        _exercise(name, archive, whole, manifests, proven)
        for name, archive in newest.items()
        if not wanted or name in wanted
    ]
    return sorted(chosen, key=lambda exercise: (exercise.last, exercise.name))


def _age(archive: Archive) -> tuple[int, int]:
    assert archive.statement is not None
    return archive.statement.time, archive.statement.sequence


def _exercise(
    name: str,
    archive: Archive,
    whole: Sequence[Archive],
    manifests: Mapping[str, Manifest],
    proven: Mapping[str, Mapping[str, int]],
) -> Exercise:
    last = proven.get(archive.id, {}).get(RESTORE, 0)
    link = Link(archive, manifests[archive.id])
    try:
        return Exercise(name, tuple(way_back(link, whole, manifests)), None, last)
    except StandfastError as error:
        return Exercise(name, (), error, last)
