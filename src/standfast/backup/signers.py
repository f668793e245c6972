"""Whose signatures count, as the owner says: added, listed, revoked. Pure.

A key that was revoked stays on record: what it had signed before, and was seen before,
stays good. A thief of the key can sign anything, with any number and any time, so it
is the digests that were seen that count, not what a signature claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from standfast.backup.minisign import PublicKey
from standfast.backup.proof import COMMITTED
from standfast.backup.removals import Head
from standfast.backup.state import PRUNER, SENDER, Revoked, Signer
from standfast.backup.sums import NONE
from standfast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.backup.memory import Seen
    from standfast.backup.proof import Survey
    from standfast.backup.state import Record


@dataclass(frozen=True)
class Standing:
    """What a vault holds of one signer.

    Attributes:
        count: archives that count, or removals.
        last: the one with the highest number; number 0 where there is none.
    """

    count: int
    last: Head


def add_signer(record: Record, signer: Signer) -> Record:
    """Return the record with a signer added, or named anew.

    Raises:
        UsageError: the key is there in another role, was revoked, or is said to
            replace a key that is not on record.
    """
    PublicKey.parse(signer.key)
    known = {one.key: one for one in record.signers}
    old = known.get(signer.key)
    if old is not None and old.revoked is not None:
        raise UsageError(
            "that key was revoked", hint="make a new key on that machine, and add it"
        )
    if old is not None and old.role != signer.role:
        raise UsageError(
            f"that key is on record as {old.role}",
            hint="a key has one role; revoke it and add another",
        )
    if signer.replaces and signer.replaces not in known:
        raise UsageError("the key that it replaces is not on record")
    known[signer.key] = signer
    return msgspec.structs.replace(record, signers=list(known.values()))


def find_signer(record: Record, text: str) -> Signer:
    """Return the signer that a person means: by key, by key id, or by name.

    Raises:
        UsageError: none fits, or more than one.
    """
    fitting = [
        s
        for s in record.signers
        if text in {s.key, s.name} or PublicKey.parse(s.key).key_id == text.upper()
    ]
    if len(fitting) != 1:
        raise UsageError(
            f"{len(fitting) or 'no'} signers on record fit: {text}",
            hint="`standfast backup signer list VAULT` shows them",
        )
    return fitting[0]


def revoke(
    record: Record, signer: Signer, survey: Survey, seen: Seen, after: int | None
) -> Record:
    """Return the record with a signer revoked.

    What counts on is what was seen of it and has a number up to ``after``. A machine
    that prunes knows what it has seen before; any other takes what is there now.

    Raises:
        UsageError: nothing was seen with that number.
    """
    if signer.role == PRUNER:
        revoked = _revoked_pruner(signer, survey, after)
    else:
        revoked = _revoked_sender(signer, survey, seen, after)
    changed = msgspec.structs.replace(signer, revoked=revoked)
    signers = [changed if s.key == signer.key else s for s in record.signers]
    return msgspec.structs.replace(record, signers=signers)


def predecessors(record: Record | None) -> dict[str, str]:
    """Return senders' keys that count -> the key that the same machine had before."""
    signers = record.signers if record is not None else []
    return {signer.key: signer.replaces for signer in signers if signer.role == SENDER}


def standing(signer: Signer, survey: Survey) -> Standing:
    """Return what a vault holds of a signer."""
    if signer.role == PRUNER:
        digests = survey.removals.digests.get(signer.key, {}) if survey.removals else {}
        return _last(list(digests.items()))
    return _last(
        [
            (archive.statement.sequence, archive.sums_digest)
            for archive in survey.archives
            if archive.standing == COMMITTED
            and archive.signer == signer.key
            and archive.statement is not None
        ]
    )


def _last(numbered: Sequence[tuple[int, str]]) -> Standing:
    number, digest = max(numbered, default=(0, NONE))
    return Standing(len(numbered), Head(number, digest))


def _revoked_pruner(signer: Signer, survey: Survey, after: int | None) -> Revoked:
    digests = survey.removals.digests.get(signer.key, {}) if survey.removals else {}
    number = max(digests, default=0) if after is None else after
    if number and number not in digests:
        raise UsageError(f"there is no removal {number} by that pruner")
    return Revoked(after=number, digest=digests.get(number, NONE), archives={})


def _revoked_sender(
    signer: Signer, survey: Survey, seen: Seen, after: int | None
) -> Revoked:
    there = {
        archive.id: (archive.statement.sequence, archive.sums_digest)
        for archive in survey.archives
        if archive.standing == COMMITTED
        and archive.signer == signer.key
        and archive.statement is not None
    }
    if signer.key in seen.observed:
        there = {
            name: (archive.sequence, archive.sums)
            for name, archive in seen.archives.items()
            if archive.signer == signer.key
        }
    numbered = [pair for pair in there.values() if after is None or pair[0] <= after]
    last = _last(numbered).last
    return Revoked(
        after=last.number if after is None else after,
        digest=last.digest,
        archives={n: d for n, (number, d) in there.items() if (number, d) in numbered},
    )
