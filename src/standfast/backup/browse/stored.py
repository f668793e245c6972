"""Reading an index where it lies, part by part.

Each page is proven before it is used: its digest is in the table, the table's in the
manifest, and the manifest's in the signed sums.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from standfast.backup.age import AgeError, SealedFile
from standfast.backup.model import INDEX_OBJECT
from standfast.errors import DamagedError, NoIdentityError, NotFoundError
from standfast.units import KIB, MIB
from standfast.zfs.outline import Outline, Root

if TYPE_CHECKING:
    from collections.abc import Callable

    from standfast.backup.model import Index
    from standfast.backup.proof import Archive
    from standfast.backup.recipients import X25519Identity
    from standfast.backup.vault import Vault
    from standfast.zfs.outline import PageCache

    Read = Callable[[int, int], bytes]

# From a store that is far away a small index comes whole, another in blocks.
WHOLE = 4 * MIB
BLOCK = 256 * KIB
_KEPT_BLOCKS = 64


def open_outline(
    index: Index,
    read: Read,
    identity: X25519Identity,
    pages: PageCache | None = None,
) -> Outline:
    """Return an outline that lies in a sealed object.

    Raises:
        DamagedError: it is not the one that ``index`` names.
    """
    try:
        sealed = SealedFile(read, index.object_size, [identity])
    except (AgeError, NoIdentityError) as error:
        raise DamagedError(f"{INDEX_OBJECT}: {error.message}") from None
    root = Root(offset=index.offset, size=index.size, sha256=index.sha256)
    return Outline(sealed.read, root, pages)


def stored_reader(vault: Vault, archive: Archive, index: Index) -> Read:
    """Return how to read parts of an archive's index where it lies.

    From far away whole blocks come, and the last ones are kept.
    """
    path = archive.path(INDEX_OBJECT)

    def fetch(offset: int, length: int) -> bytes:
        try:
            return vault.store.get_range(path, offset, length)
        except NotFoundError:
            raise DamagedError(f"{path} is missing") from None

    if vault.store.near:
        return fetch
    size = index.object_size
    return _Blocks(fetch, size, BLOCK if size > WHOLE else max(size, 1)).read


class _Blocks:
    """Reads whole blocks and keeps some."""

    def __init__(self, fetch: Read, size: int, block: int) -> None:
        self._fetch = fetch
        self._size = size
        self._block = block
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self._size)
        first = offset // self._block
        parts = [self._get(n) for n in range(first, -(-end // self._block))]
        skip = offset - first * self._block
        return b"".join(parts)[skip : skip + max(0, end - offset)]

    def _get(self, number: int) -> bytes:
        if number not in self._kept:
            start = number * self._block
            self._kept[number] = self._fetch(
                start, min(self._block, self._size - start)
            )
            if len(self._kept) > _KEPT_BLOCKS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]
