"""Going on with a send that was interrupted, by proving the replay.

``zfs send`` cannot start in the middle for a vault: resume tokens are made by a
receiver, and there is none. So it is run again from the start, and of each segment
the plaintext's fingerprint is compared with the one on record: while they are
equal, what was stored stands; where one differs (the same snapshot does not always
give the same bytes: openzfs/zfs#13778), the object is replaced. Every byte passes
the stream checks again. Nothing is ever joined that was not given in one piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.backup.model import SIGNATURE, Segment, archive_folder, segment_name
from standfast.backup.send import Draft, begun_of, new_draft
from standfast.errors import StandfastError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from standfast.backup.plan import SendPlan
    from standfast.backup.underway import Begun, Resumable
    from standfast.backup.vault import Vault


class CannotResumeError(StandfastError):
    """What is left of a send cannot be gone on with; a new one can begin."""


def find_resumable(vault: Vault, begun: Begun) -> Resumable | None:
    """Return the interrupted send that a new one can go on with, if there is one.

    All of ``begun`` must agree: snapshot, base, flags, recipient, sizes, level. Of
    several the one that got farthest.
    """
    fitting = [
        one for one in vault.state.resumable() if one.begun == begun and not one.alive
    ]
    return max(fitting, key=lambda one: len(one.segments), default=None)


def prepare(vault: Vault, found: Resumable) -> Draft:
    """Return the draft of what was interrupted, with the segments that are good.

    The store is asked for each object's digest, so that what a power cut spoilt
    is sent again; whatever else lies there is removed.

    Raises:
        CannotResumeError: the archive was committed after all, or what must go
            cannot be removed.
        StoreError: the store cannot be asked.
    """
    folder = archive_folder(found.archive)
    present = {
        entry.name
        for entry in vault.store.entries()
        if entry.name.startswith(f"{folder}/")
    }
    if f"{folder}/{SIGNATURE}" in present:
        raise CannotResumeError(f"{folder} was committed meanwhile")
    names = {f"{folder}/{segment_name(i)}": i for i in found.segments}
    wanted = [name for name in names if name in present]
    good: dict[int, Segment] = {}
    for name, digest in vault.store.digests(wanted):
        segment = found.segments[names[name]]
        if digest == segment.sha256:
            good[names[name]] = segment
    keep = {name for name, index in names.items() if index in good}
    try:
        for name in sorted(present - keep):
            vault.store.delete(name)
    except StoreError as error:
        if error.transient:
            raise
        raise CannotResumeError(
            f"what is left in {folder} cannot be removed: {error.message}"
        ) from None
    return Draft(found.archive, found.key, found.begun, good)


def choose_draft(
    vault: Vault, plan: SendPlan, level: int, note: Callable[[str], None]
) -> Draft:
    """Return an interrupted archive of the same plan to go on with, or a new one.

    Args:
        vault: where to.
        plan: what; it names a snapshot.
        level: zstd level.
        note: told which it is, where there was one.

    Raises:
        StoreError: the store cannot be asked about what was interrupted.
    """
    found = find_resumable(vault, begun_of(vault, plan, level))
    if found is None:
        return new_draft(vault, plan, level)
    try:
        draft = prepare(vault, found)
    except CannotResumeError as error:
        vault.state.give_up(found.archive)
        note(f"begins anew: {error.message}")
        return new_draft(vault, plan, level)
    size = sum(segment.size for segment in draft.segments.values())
    note(
        f"goes on with archive {draft.archive}: {len(draft.segments)} segments, "
        f"{size} bytes, are stored already"
    )
    return draft
