"""Proof by restore: chains are received into a scratch dataset, compared, taken away.

Whether a backup can be restored is known when it was. For each dataset the newest
point goes the whole way back: every object hashed, every archive of its chain opened,
received, and the snapshot's contents compared with the source's where that is still
there. Without a ZFS, or without room, the chain goes through every check but the
receiving. What was proven is remembered, with its date.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.comparing import compare
from standfast.backup.receiving import ReceiveSink, make_room
from standfast.backup.restore import Found, check_before, restore
from standfast.backup.verify import Level, Verifier, check_contents
from standfast.errors import StandfastError
from standfast.zfs.names import check_dataset
from standfast.zfs.streams import exists

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from standfast.backup.drill_plan import Exercise
    from standfast.backup.recipients import X25519Identity
    from standfast.backup.scratch import Scratch
    from standfast.backup.vault import Vault
    from standfast.host import Host

RECEIVED, READ = "received", "read"
NOT_ASKED = "not compared"


@dataclass(frozen=True)
class Proof:
    """What an exercise proved.

    Attributes:
        how: RECEIVED, or READ through every check but the receiving.
        compared: SAME as the source; or why not: GONE, LOCKED, NOT_ASKED.
    """

    how: str
    compared: str


@dataclass(frozen=True)
class Driller:
    """How to drill.

    Attributes:
        vault: what is to be proven.
        identity: its identity.
        host: where zfs is.
        scratch: room to receive into; None to read only.
        compare: whether to read the source as well.
        progress: told of (plaintext, stored) bytes done.
    """

    vault: Vault
    identity: X25519Identity
    host: Host
    scratch: Scratch | None
    compare: bool
    progress: Callable[[int, int], None]


def drill(driller: Driller, exercise: Exercise) -> Proof:
    """Prove one dataset.

    Raises:
        DamagedError: an archive is damaged, or what came back differs.
        CommandError: zfs failed.
        StoreError: the store failed.
        UsageError: there is no room for it.
    """
    if exercise.trouble is not None:
        raise exercise.trouble
    way = [Found(link.archive, link.manifest, link.parts) for link in exercise.way]
    for found in way:
        check_before(driller.vault, found, driller.progress)
    if driller.scratch is None or not exercise.way[-1].taken:
        return _read(driller, way)
    driller.scratch.check_room(exercise.size)
    with driller.scratch.made() as target:
        return _receive(driller, way, target)


def _read(driller: Driller, way: Sequence[Found]) -> Proof:
    """Take a chain through every check but the receiving."""
    for found in way:
        verifier = Verifier(
            Level.DECRYPT,
            driller.vault.store.digests,
            driller.identity,
            driller.progress,
            recognised=found.recognised,
        )
        check_contents(driller.vault, found.archive, found.manifest, verifier)
    return Proof(READ, NOT_ASKED)


def _receive(driller: Driller, way: Sequence[Found], target: str) -> Proof:
    ours = frozenset(part.guid for found in way for part in found.link.taken)
    flags = ["-u"]
    for number, found in enumerate(way):
        make_room(driller.host, target, found.link, ours)
        these = [*flags, "-F"] if number else flags
        sink = ReceiveSink(
            driller.host, target, these, found.link.taken, [*flags, "-F"]
        )
        restore(driller.vault, found, driller.identity, sink, driller.progress)
    if not driller.compare:
        return Proof(RECEIVED, NOT_ASKED)
    link = way[-1].link
    return Proof(RECEIVED, compare(driller.host, link, target, driller.progress))


def choose_parent(host: Host, exercises: Sequence[Exercise]) -> str:
    """Return the pool of the first source that is on this machine, or nothing."""
    for exercise in exercises:
        if not exercise.way or not exercise.way[-1].taken:
            continue
        with contextlib.suppress(StandfastError):
            pool = check_dataset(exercise.name.partition("/")[0])
            if exists(host, pool):
                return pool
    return ""
