"""Old archives into a vault: each examined to its end, then sealed, once.

An archive of the old script is worth no more than its snapshot, so what counts as
"there already" is that the vault holds the snapshot: as a whole archive of that
GUID, committed and with all that it builds on, however it came there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.chain import whole_chains
from standfast.backup.plan import SendPlan
from standfast.backup.resume import choose_draft
from standfast.backup.send import send_archive
from standfast.backup.sums import NONE
from standfast.errors import DamagedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from standfast.backup.legacy import Known, OldArchive
    from standfast.backup.proof import Trust
    from standfast.backup.send import Outcome, Sender
    from standfast.backup.state import Sent
    from standfast.backup.vault import Vault


class NoBaseError(UsageError):
    """An increment's base is not in the vault, or not yet."""


@dataclass(frozen=True)
class Holdings:
    """What this machine knows that a vault holds.

    Attributes:
        sent: by the snapshot's GUID, and whether it is of a whole tree.
    """

    sent: Mapping[tuple[int, bool], Sent]


def holdings(vault: Vault, trust: Trust) -> Holdings:
    """Return the snapshots that were sent from here and that the vault still has."""
    survey, _ = vault.survey(trust)
    whole = whole_chains(survey.archives)
    sent = vault.state.ledger().sent.values()
    there = [s for s in sent if s.guid and whole.get(s.archive) == s.sums]
    return Holdings({(int(s.guid), "R" in s.kind): s for s in there})


def plan_import(archive: OldArchive, known: Known, held: Holdings) -> SendPlan | None:
    """Return what is to be sent of a whole old archive; None if the vault has it.

    Raises:
        NoBaseError: it is an increment, and what it builds on is not in the vault.
    """
    facts = known.facts
    assert facts is not None
    tree = len({part.toname.partition("@")[0] for part in facts.streams}) > 1
    if (facts.toguid, tree) in held.sent:
        return None
    base = held.sent.get((facts.fromguid, tree))
    if facts.fromguid and (base is None or ("w" in base.kind) != facts.raw):
        raise NoBaseError(
            f"{facts.toname} is an increment from guid {facts.fromguid}, which the "
            "vault does not have",
            hint="import the one it builds on first",
        )
    why = "an archive of the old script"
    return SendPlan(
        name=facts.toname,
        command=("import-legacy", archive.path.name),
        guid=facts.toguid,
        size=facts.bytes,
        tree=tree,
        why=why if base is None else f"{why}, on top of archive {base.archive}",
        base=NONE if base is None else base.archive,
        base_guid=facts.fromguid,
        raw=facts.raw,
    )


def import_archive(
    vault: Vault,
    archive: OldArchive,
    plan: SendPlan,
    sender: Sender,
    note: Callable[[str], None],
) -> Outcome:
    """Seal an examined archive; an import that was interrupted goes on.

    Raises:
        DamagedError: the file is not what was examined.
        StoreError: the store failed for good.
    """
    draft = choose_draft(vault, plan, sender.level, note)
    return send_archive(vault, plan, _Reader(archive), sender, draft)


class _Reader:
    """Gives an examined archive's stream to the sealing line; see Producer."""

    def __init__(self, archive: OldArchive) -> None:
        self._path = archive.path
        self._pieces = archive.stream()
        self._left = memoryview(b"")
        self._stopped = self._ended = False

    def read(self, room: memoryview) -> int:
        """Fill (part of) ``room``; return how much, 0 at the end."""
        while not self._left:
            if self._stopped or self._ended:
                return 0
            piece = next(self._pieces, None)
            self._ended = piece is None
            self._left = memoryview(b"") if piece is None else piece
        count = min(len(room), len(self._left))
        room[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def stop(self) -> None:
        """Make ``read`` return 0 once what it holds is given."""
        self._stopped = True

    def finish(self) -> None:
        """Return if all of it was read.

        Raises:
            DamagedError: it was not.
        """
        if not self._ended:
            raise DamagedError(f"{self._path} was not read to its end")
