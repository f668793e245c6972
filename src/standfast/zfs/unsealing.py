"""The objects of a raw encrypted stream, opened as they are looked at.

The outline of such a stream holds what is encrypted as it was sent; with the dataset's
keys each bonus buffer, spill and block is opened when it is wanted. Pure.
"""

from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING, NamedTuple

from standfast.errors import NoIdentityError, StreamError
from standfast.zfs.sealed import is_encrypted, key_data, unlock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.zfs.outline import Record, SubstreamOutline
    from standfast.zfs.sealed import Unlocked

_OBJECT, _OBJECT_RANGE = 1, 9
# Dnodes in a block of the meta-dnode: 16 KiB in slots of 512 bytes. A raw send says
# all dnodes of a changed block, behind one OBJECT_RANGE.
_BLOCK_SLOTS = 32
_SWAPPED = 1 << 1


class Seal(NamedTuple):
    """What opens one block: the key's salt, the nonce, and the tag."""

    salt: bytes
    iv: bytes
    mac: bytes


def is_raw(part: SubstreamOutline) -> bool:
    """Return whether a substream was sent raw."""
    return "RAW" in part.part.features


class PartKeys:
    """Opens what one substream of a raw send carries.

    Args:
        part: the substream.
        keys: of its dataset.
    """

    def __init__(self, part: SubstreamOutline, keys: Unlocked) -> None:
        self._part = part
        self._keys = keys
        self._bonuses: dict[int, dict[int, bytes]] = {}

    def write_seal(self, head: bytes) -> Seal | None:
        """Return what opens a WRITE record's payload; None if it is not encrypted."""
        (kind,) = unpack_from(self._part.order + "I", head, 16)
        if not is_encrypted(kind):
            return None
        self._same_order(head[49])
        return Seal(head[104:112], head[112:124], head[124:140])

    def spill(self, head: bytes, held: bytes) -> bytes:
        """Return a SPILL record's payload, decrypted.

        Raises:
            StreamError: it was altered.
        """
        self._same_order(head[32])
        return self.open(Seal(head[48:56], head[56:68], head[68:84]), held)

    def open(self, seal: Seal, data: bytes) -> bytes:
        """Return a block as it was stored, decrypted.

        Raises:
            StreamError: it was altered.
        """
        return self._keys.block(*seal, data)

    def bonus(self, record: Record, number: int) -> bytes:
        """Return the bonus buffer of an OBJECT record.

        Raises:
            StreamError: the records that go with it are missing.
        """
        if not self._has_sealed_bonus(record):
            return record.held
        first = number - number % _BLOCK_SLOTS
        if first not in self._bonuses:
            # Looked at one after the other they lie in few blocks.
            self._bonuses = {first: self._open_bonuses(first)}
        return self._bonuses[first][number]

    def _open_bonuses(self, first: int) -> dict[int, bytes]:
        seals: list[tuple[bytes, bytes]] = []
        sealed: dict[int, bytes] = {}
        for number in range(first, first + _BLOCK_SLOTS):
            for record in self._part.records(number):
                (kind,) = unpack_from(self._part.order + "I", record.head)
                if kind == _OBJECT_RANGE:
                    self._same_order(record.head[68])
                    seals.append((record.head[32:40], record.head[40:52]))
                elif kind == _OBJECT and self._has_sealed_bonus(record):
                    sealed[number] = record.held
        if len(seals) != 1:
            raise StreamError(
                f"objects from {first} on are encrypted, and nothing says how"
            )
        opened = self._keys.bonuses(*seals[0], list(sealed.values()))
        return dict(zip(sealed, opened, strict=True))

    def _has_sealed_bonus(self, record: Record) -> bool:
        kind, _size, length = unpack_from(self._part.order + "III", record.head, 20)
        return is_encrypted(kind) and length > 0

    def _same_order(self, flags: int) -> None:
        if flags & _SWAPPED:
            raise StreamError(
                f"{self._part.part.name} holds blocks of another byte order, encrypted",
                hint="restore it into a pool",
            )


def part_keys(
    chain: Sequence[SubstreamOutline], secrets: Sequence[bytes]
) -> list[PartKeys | None]:
    """Return what opens each substream of a chain; None for one that is not raw.

    A dataset keeps its master key when its passphrase changes: what opens one
    substream opens all that have the same key.

    Raises:
        NoIdentityError: a raw one opens with none of the secrets, or there is none.
        StreamError: its keys are damaged.
    """
    opened: dict[int, Unlocked] = {}
    trouble: dict[int, NoIdentityError] = {}
    for part in chain:
        data = key_data(part.payload) if is_raw(part) else None
        if data is None or data.guid in opened:
            continue
        for secret in secrets:
            try:
                opened[data.guid] = unlock(data, secret)
                break
            except NoIdentityError as error:
                trouble[data.guid] = error
    return [_keys_of(part, opened, trouble) for part in chain]


def _keys_of(
    part: SubstreamOutline,
    opened: dict[int, Unlocked],
    trouble: dict[int, NoIdentityError],
) -> PartKeys | None:
    if not is_raw(part):
        return None
    data = key_data(part.payload)
    if data is None:
        raise StreamError(f"{part.part.name} was sent raw, and its keys are missing")
    if data.guid in opened:
        return PartKeys(part, opened[data.guid])
    if data.guid in trouble:
        raise trouble[data.guid]
    raise NoIdentityError(
        f"{part.part.name} was sent raw: its contents are encrypted by ZFS "
        f"with a {data.wants}",
        hint="pass --dataset-key FILE; without it only names of datasets, numbers and "
        "sizes of blocks can be told",
    )
