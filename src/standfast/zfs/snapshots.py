"""Making snapshots of many datasets at one moment, and destroying them one by one.

``zfs snapshot`` with several names, or with ``-r``, works in one transaction of the
pool: all are of the same moment, or none is made. Releases before 2012, zfs-fuse
among them, take one name only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.errors import CommandError
from standfast.zfs.names import split_snapshot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.host import Host

# FreeBSD gives a command's arguments and environment 512 KiB together.
ARGUMENT_BYTES = 256 * 1024
# What zfs(8) exits with when it is called in a way that it does not know.
USAGE = 2


@dataclass(frozen=True)
class Taken:
    """Snapshots that were made.

    Attributes:
        names: ``DATASET@SNAPSHOT``, or ``-r`` for a tree as its root's alone.
        together: whether all of a pool are of one moment.
    """

    names: tuple[str, ...]
    together: bool


def take(host: Host, groups: Sequence[tuple[str, ...]], name: str) -> Taken:
    """Make a snapshot of each dataset.

    Args:
        host: where the pools are.
        groups: each ``("-r", ROOT)`` for a tree, or datasets of one pool.
        name: the snapshots' name, after the ``@``.

    Raises:
        CommandError: zfs refused; groups before that one keep their snapshots.
    """
    made: list[str] = []
    together = True
    for group in groups:
        names = [f"{dataset}@{name}" for dataset in group if dataset != "-r"]
        for full in names:
            split_snapshot(full)
        if group[0] == "-r":
            host.run(["zfs", "snapshot", "-r", *names])
        else:
            parts = _within_limits(names)
            whole = [_at_once(host, part) for part in parts]
            together = together and len(parts) == 1 and all(whole)
        made += names
    return Taken(tuple(made), together)


def destroy(host: Host, snapshot: str) -> None:
    """Destroy one snapshot; never anything else.

    Raises:
        UsageError: the name is no snapshot's.
        CommandError: zfs refused: it is held, or cloned.
    """
    split_snapshot(snapshot)
    host.run(["zfs", "destroy", snapshot])


def _at_once(host: Host, names: Sequence[str]) -> bool:
    """Make snapshots in one command if zfs can, and return whether it did."""
    result = host.run(["zfs", "snapshot", *names], ok=range(256))
    if result.code == 0:
        return True
    if result.code != USAGE or len(names) == 1:
        raise CommandError(result.complaint())
    for name in names:
        host.run(["zfs", "snapshot", name])
    return False


def _within_limits(names: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    room = ARGUMENT_BYTES
    for name in names:
        size = len(name) + 9  # its end, and its pointer
        if size > room:
            parts.append([])
            room = ARGUMENT_BYTES
        parts[-1].append(name)
        room -= size
    return parts
