"""Which names a sender may speak of, and how large an object of each may be. Pure.

A name that is none of a vault's own leads nowhere: with no ``..``, no leading slash
and no folder but an archive's, no path can lead out of the vault.
"""

from __future__ import annotations

from standfast.backup.model import (
    ARCHIVES,
    INDEX_OBJECT,
    LARGEST_DOCUMENT,
    LARGEST_MANIFEST,
    LARGEST_SUMS,
    MANIFEST_OBJECT,
    RECOVERY_TEXT,
    REMOVAL_NAME,
    REMOVALS,
    ROOT_OBJECTS,
    SIGNATURE,
    SUMS,
    VAULT_DOCUMENT,
    is_archive_id,
    segment_index,
)
from standfast.units import MIB

# A manifest, or the largest segment sealed.
LARGEST_OBJECT = LARGEST_MANIFEST + 8 * MIB
_PLAIN = (VAULT_DOCUMENT, RECOVERY_TEXT, SUMS, SIGNATURE)


def archive_in(name: str) -> str:
    """Return the archive whose object a name is, or an empty string."""
    top, _, rest = name.partition("/")
    archive, _, last = rest.partition("/")
    good = top == ARCHIVES and is_archive_id(archive) and last and "/" not in last
    return archive if good else ""


def is_known(name: str) -> bool:
    """Return whether a name is that of an object that a vault may have."""
    if name in ROOT_OBJECTS or name in {SUMS, SIGNATURE}:
        return True
    if match := REMOVAL_NAME.fullmatch(name):
        return bool(match.group(3))
    last = name.rpartition("/")[2]
    fixed = {MANIFEST_OBJECT, INDEX_OBJECT, SUMS, SIGNATURE}
    return bool(archive_in(name)) and (last in fixed or segment_index(last) is not None)


def largest_of(name: str) -> int:
    """Return how large an object of that name may be."""
    if not archive_in(name):
        return LARGEST_DOCUMENT
    last = name.rpartition("/")[2]
    return {SUMS: LARGEST_SUMS, SIGNATURE: LARGEST_DOCUMENT}.get(last, LARGEST_OBJECT)


def is_removal(name: str) -> bool:
    """Return whether a name is that of a stated removal, or of its signature."""
    return name.startswith(f"{REMOVALS}/") and is_known(name)


def is_open(name: str) -> bool:
    """Return whether an object holds nothing that a verifier should not see."""
    signed = bool(archive_in(name)) and name.rpartition("/")[2] in {SUMS, SIGNATURE}
    return name in _PLAIN or is_removal(name) or signed
