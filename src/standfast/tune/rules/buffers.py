"""The buffer cache: headers, then clean_map with its buffers and transfer windows.

K is the smaller of RAM and kernel address space in KiB. nbuf = 50 + min((K - 4096)
/ 64, 1024) + (K - 65536) x 2 / 320, from 9.2 on the last term at most 104857; at
most kern.maxbcache / 16 KiB (200 MiB; 112.9 MiB from 9.2 on), or kern.nbuf.
From 9.2 on the buffers give up space for transient transfers of 128 KiB each: what
the cache leaves of its limit when it takes less than 4/5 of it, otherwise a fifth
of the cache; at most 1024. nswbuf = nbuf/4, from 16 to 256.

Headers: nbuf + nswbuf structures, before 10.x also the callouts and their wheel
(the next power of two, 8 bytes each). clean_map: nbuf x 16 KiB + (nswbuf +
transient) x 128 KiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.tune.model import KIB, PAGE
from standfast.tune.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standfast.tune.generations import Generation

RULE = Rule(
    "buffer cache",
    "sys/kern/vfs_bio.c kern_vfs_bio_buffer_alloc, kern_timeout.c, vm_init.c"
    " vm_ksubmap_init of 8.0R, 9c, 9.3R, 10.4R; sizeof(struct buf) by a probe",
    "7.0 to 11.x on i386",
)

_BUFFER = 16 * KIB
_TRANSFER = 128 * KIB
_SHARE = 5  # TRANSIENT_DENOM on i386


@dataclass(frozen=True)
class Buffers:
    """Counts of the buffer cache."""

    buffers: int
    transfers: int
    transient: int

    @property
    def clean_bytes(self) -> int:
        """Bytes of clean_map."""
        return self.buffers * _BUFFER + (self.transfers + self.transient) * _TRANSFER

    def header_bytes(self, kernel: Generation, callouts: int) -> int:
        """Bytes of buffer headers, callouts and their wheel."""
        size = (self.buffers + self.transfers) * kernel.buffer_bytes
        if kernel.callout_bytes:
            wheel = 1 << max(0, callouts - 1).bit_length()
            size += callouts * kernel.callout_bytes + wheel * 8
        return size


def count(
    kernel: Generation, physmem: int, span: int, tunables: Mapping[str, int]
) -> Buffers:
    """Return the counts for that RAM (pages) and address space (bytes)."""
    limit = tunables.get("kern.maxbcache", kernel.buffer_limit)
    asked = tunables.get("kern.nbuf", 0)
    buffers = asked or _by_memory(kernel, min(physmem, span // PAGE) * 4, limit)
    transient = 0
    if kernel.transient:
        kept, transient = _share(buffers * _BUFFER, limit)
        buffers = asked or kept
    transfers = max(min(buffers // 4, 256), 16)
    return Buffers(buffers, transfers, transient)


def _by_memory(kernel: Generation, kib: int, limit: int) -> int:
    buffers = 50
    if kib > 4096:  # noqa: PLR2004
        buffers += min((kib - 4096) // 64, 1024)
    if kib > 65536:  # noqa: PLR2004
        more = (kib - 65536) * 2 // 320
        buffers += min(more, 104857) if kernel.transient else more
    return min(buffers, limit // _BUFFER) if limit else buffers


def _share(size: int, limit: int) -> tuple[int, int]:
    """Return buffers kept and transient transfers."""
    if size < limit // _SHARE * (_SHARE - 1):
        spare = limit - size
    else:
        spare = size // _SHARE
        size -= spare
    return size // _BUFFER, min(spare // _TRANSFER, 1024)
