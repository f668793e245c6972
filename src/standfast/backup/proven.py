"""What was proven of each archive, and when: the memory behind ``status``.

One file a vault in the state folder, ``proven.json``: for each archive the time of
the last proof of each kind. It is a convenience and no evidence: whoever may write
the state folder may write it. Archives that are gone drop out at the next note.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from standfast.backup.model import FORMAT, decode, encode
from standfast.backup.state import write_private
from standfast.errors import StandfastError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from standfast.backup.state import VaultState

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
    """

    format: int
    archives: dict[str, dict[str, int]]


def read_proven(state: VaultState) -> Mapping[str, Mapping[str, int]]:
    """Return archive id -> kind of proof -> Unix time of the last one.

    Raises:
        DamagedError: the file holds something else.
        StandfastError: it cannot be read.
    """
    path = state.folder / "proven.json"
    try:
        return decode(path.read_bytes(), Proven, str(path)).archives
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StandfastError(f"cannot read {path}: {error.strerror}") from None


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
        kept = {
            archive: dict(times)
            for archive, times in read_proven(state).items()
            if present is None or archive in present
        }
        for archive in archives:
            times = kept.setdefault(archive, {})
            times[kind] = int(time)
            if kind in KINDS[KINDS.index(HASH) :]:
                times.pop(DAMAGED, None)
        document = Proven(format=FORMAT, archives=kept)
        write_private(state.folder / "proven.json", encode(document))
