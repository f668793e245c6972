"""Small files out of a tar stream that nobody vouches for, in bounded memory. Pure.

tarfile takes a whole extended header into memory, whatever size it claims. Here
nothing is kept but one block and the files that were asked for. Names in a vault
are short, so a plain header (POSIX.1-1988, ``ustar``) is all that is needed; what
extended headers say is passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

BLOCK = 512
PASSED_OVER = 64 * 1024
REGULAR = (b"0", b"\0")


class TarReader:
    """A tar stream read once.

    Args:
        read: returns up to so many bytes of the stream, none at its end.
        begun: the stream's first bytes, where they were read already.
    """

    def __init__(self, read: Callable[[int], bytes], begun: bytes = b"") -> None:
        self._read = read
        self._rest = begun

    def members(
        self, wanted: Container[str], limit: int
    ) -> Iterator[tuple[str, bytes]]:
        """Yield (name, contents) of regular files up to the archive's end.

        Files that are not wanted, or larger than ``limit`` bytes, are passed over.

        Raises:
            StoreError: it is no tar stream, or it is cut.
        """
        while True:
            head = self._exactly(BLOCK)
            if not head.strip(b"\0"):
                return
            name, size = _parse(head)
            padding = -size % BLOCK
            if head[156:157] in REGULAR and name in wanted and size <= limit:
                yield name, self._exactly(size)
                size = 0
            self._skip(size + padding)

    def rest(self) -> bytes:
        """Return the last bytes of the stream, at most a block's length of them."""
        last = self._rest[-BLOCK:]
        while part := self._read(PASSED_OVER):
            last = (last + part)[-BLOCK:]
        return last

    def _exactly(self, count: int) -> bytes:
        parts = [self._rest[:count]]
        self._rest = self._rest[count:]
        left = count - len(parts[0])
        while left:
            part = self._read(PASSED_OVER)
            if not part:
                raise _broken("it ends too early")
            parts.append(part[:left])
            self._rest = part[left:]
            left -= len(parts[-1])
        return b"".join(parts)

    def _skip(self, count: int) -> None:
        while count:
            count -= len(self._exactly(min(count, PASSED_OVER)))


def _parse(head: bytes) -> tuple[str, int]:
    """Return a header's name and size."""
    field = head[124:136]
    try:
        if field[0] & 0x80:  # GNU's binary form, for sizes from 8 GiB on
            size = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        else:
            size = int(field.strip(b" \0") or b"0", 8)
        stated = int(head[148:156].strip(b" \0"), 8)
        name = head[:100].partition(b"\0")[0].decode()
        prefix = head[345:500].partition(b"\0")[0].decode()
    except ValueError:
        raise _broken("a header makes no sense") from None
    if stated != sum(head[:148]) + sum(b" " * 8) + sum(head[156:]):
        raise _broken("a header's sum is wrong")
    if prefix and head[257:263] == b"ustar\0":
        name = f"{prefix}/{name}"
    return name.removeprefix("./"), size


def _broken(why: str) -> StoreError:
    return StoreError(f"what came is no tar archive: {why}", transient=True)
