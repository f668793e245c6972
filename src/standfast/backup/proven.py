"""What was proven of each archive, and when: the memory behind ``status``.

One file a vault in the state folder, ``proven.json``: for each archive the time of
the last proof of each kind. It is a convenience and no evidence: whoever may write
the state folder may write it. Archives that are gone drop out at the next note.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from standfast.backup.model import FORMAT, decode, encode
from standfast.backup.proof import COMMITTED, REFUSED
from standfast.backup.state import write_private
from standfast.backup.verify import Level
from standfast.errors import ExitStatus, StandfastError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from standfast.backup.state import VaultState
    from standfast.backup.vault import Vault
    from standfast.backup.verify import Report

# In order of what they prove. LISTING: names, sizes, signatures. HASH: the far end
# says that every byte is there. FETCH: every byte was read back and hashed here.
# DECRYPT: every byte was decrypted, and the stream is whole. RESTORE: the archive,
# with all that it stands on, was received by a ZFS or checked as a whole chain.
LISTING = "listing"
HASH = "hash"
FETCH = "fetch"
DECRYPT = "decrypt"
RESTORE = "restore"
KINDS = (LISTING, HASH, FETCH, DECRYPT, RESTORE)
# The last proof that failed; forgotten when one of at least HASH holds again.
DAMAGED = "damaged"


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """``proven.json``.

    Attributes:
        format: 1.
        archives: archive id -> kind of proof -> Unix time of the last one.
        whole: kind of proof -> Unix time at which the whole vault last passed it.
    """

    format: int
    archives: dict[str, dict[str, int]]
    whole: dict[str, int] = msgspec.field(default_factory=dict)


def read_proven(state: VaultState) -> Mapping[str, Mapping[str, int]]:
    """Return archive id -> kind of proof -> Unix time of the last one.

    Raises:
        DamagedError: the file holds something else.
        StandfastError: it cannot be read.
    """
    return _read(state).archives


def read_whole(state: VaultState) -> Mapping[str, int]:
    """Return kind of proof -> Unix time at which the whole vault last passed it.

    Raises:
        DamagedError: the file holds something else.
        StandfastError: it cannot be read.
    """
    return _read(state).whole


def note_proven(
    state: VaultState,
    kind: str,
    archives: Iterable[str],
    time: float,
    present: Container[str] | None = None,
) -> None:
    """Remember that archives passed a proof, or failed one (``DAMAGED``).

    Args:
        state: the vault's memory; the vault must be on record here.
        kind: one of KINDS, or DAMAGED.
        archives: their ids.
        time: seconds since the epoch.
        present: all archives of the vault, where that is known; others are dropped.

    Raises:
        LockedError: another process holds the vault's memory.
        StandfastError: it cannot be read or written.
    """
    with state.locked():
        known = _read(state)
        kept = {
            archive: dict(times)
            for archive, times in known.archives.items()
            if present is None or archive in present
        }
        for archive in archives:
            times = kept.setdefault(archive, {})
            times[kind] = int(time)
            if kind in KINDS[KINDS.index(HASH) :]:
                times.pop(DAMAGED, None)
        _write(state, msgspec.structs.replace(known, archives=kept))


def remember_report(
    vault: Vault, report: Report, time: float, *, whole: bool, read_here: bool
) -> None:
    """Remember what a verification found, on a machine that knows the vault.

    Args:
        vault: the vault.
        report: what was found.
        time: seconds since the epoch.
        whole: whether all of the vault was verified.
        read_here: whether the bytes were hashed on this machine.

    Raises:
        StandfastError: the memory cannot be read or written.
    """
    if vault.record is None:
        return
    kind = {
        Level.LISTING: LISTING,
        Level.HASH: FETCH if read_here else HASH,
        Level.DECRYPT: DECRYPT,
    }[report.level]
    checked = [one.archive for one in report.checked]
    present = {archive.id for archive in checked} if whole else None
    for standing, what in ((COMMITTED, kind), (REFUSED, DAMAGED)):
        ids = [a.id for a in checked if a.standing == standing]
        note_proven(vault.state, what, ids, time, present)
    if whole and report.status() == ExitStatus.DONE:
        with vault.state.locked():
            known = _read(vault.state)
            times = {**known.whole, kind: int(time)}
            _write(vault.state, msgspec.structs.replace(known, whole=times))


def _read(state: VaultState) -> Proven:
    path = state.folder / "proven.json"
    try:
        return decode(path.read_bytes(), Proven, str(path))
    except FileNotFoundError:
        return Proven(format=FORMAT, archives={})
    except OSError as error:
        raise StandfastError(f"cannot read {path}: {error.strerror}") from None


def _write(state: VaultState, proven: Proven) -> None:
    write_private(state.folder / "proven.json", encode(proven))
