"""zstd frames, fast where the data is dense already.

A segment holds one or more complete frames, each with its content checksum, which
any zstd reads as one. The frame changes when the data does: encrypted or packed
data (raw sends, films, archives) goes through a fast setting that stores it almost
as it is, at three times the speed and no cost in size, since there was nothing to
gain. ``bench/`` has the figures.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from standfast.errors import DamagedError
from standfast.units import KIB, MIB

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DEFAULT_LEVEL = 3
LEVELS = range(1, 20)
# Data is judged and compressed a piece at a time.
PIECE = MIB
# zstd's own block. What comes of a block is small enough for malloc to keep its
# memory; that of a whole piece goes back to the system and is faulted in anew.
BLOCK = 128 * KIB
# Four samples a piece; all must be dense for the piece to count as dense.
SAMPLE = 4 * KIB
SAMPLES = 4
DENSE = 0.98
# Negative levels are faster and find less; -5 runs at 2.4 GB/s on random data here
# against 0.9 GB/s at level 3.
FAST_LEVEL = -5
PROBE_LEVEL = -20

_P = zstd.CompressionParameter
# At level 3, hash tables of 2^16 entries stay in a 1 MiB cache: 16 % faster, 0.4 %
# larger output than zstd's own choice for long inputs (bench/levels.py).
_TUNED: dict[int, int] = {_P.hash_log: 16, _P.chain_log: 16}


class Compressor:
    """Makes frames of one segment after another.

    Its working memory is made once: some megabytes, whose first touch would cost
    each segment more than the cipher does. It belongs to one thread at a time.
    """

    def __init__(self, level: int) -> None:
        self._normal = _compressor(level, _TUNED if level == DEFAULT_LEVEL else {})
        self._fast = _compressor(FAST_LEVEL, {})
        self._probe = zstd.ZstdCompressor(options={_P.compression_level: PROBE_LEVEL})

    def compress(self, data: memoryview) -> Iterator[bytes]:
        """Yield complete zstd frames for ``data``, in pieces of any size."""
        current = self._normal
        begun = False
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            dense = _is_dense(piece, self._probe)
            wanted = self._fast if dense else self._normal
            if wanted is not current:
                if begun:
                    yield current.flush(zstd.ZstdCompressor.FLUSH_FRAME)
                current = wanted
            begun = True
            for cut in range(0, len(piece), BLOCK):
                yield current.compress(piece[cut : cut + BLOCK])
        yield current.flush(zstd.ZstdCompressor.FLUSH_FRAME)


def decompress_into(parts: Iterable[bytes], out: memoryview) -> None:
    """Fill ``out`` with what complete frames hold.

    Each frame must end and carry a good checksum, and together they must fill
    ``out`` exactly; nothing is ever made that would not fit.

    Args:
        parts: the compressed bytes, in pieces of any size.
        out: writable.

    Raises:
        DamagedError: any of that does not hold.
    """
    place = 0
    frame = zstd.ZstdDecompressor()
    within = False
    try:
        for part in parts:
            rest = part
            while rest:
                plain = frame.decompress(rest, len(out) - place + 1)
                if len(plain) > len(out) - place:
                    raise DamagedError("compressed data is larger than it says")
                out[place : place + len(plain)] = plain
                place += len(plain)
                within = not frame.eof
                rest = b"" if within else frame.unused_data
                if not within:
                    frame = zstd.ZstdDecompressor()
    except zstd.ZstdError as error:
        raise DamagedError(f"compressed data is damaged: {error}") from None
    if within or place != len(out):
        raise DamagedError("compressed data is shorter than it says")


def _compressor(level: int, more: Mapping[int, int]) -> zstd.ZstdCompressor:
    options: dict[int, int] = {_P.compression_level: level, _P.checksum_flag: 1}
    options.update(more)
    return zstd.ZstdCompressor(options=options)


def _is_dense(piece: memoryview, probe: zstd.ZstdCompressor) -> bool:
    """Return whether samples of a piece do not shrink."""
    step = max(SAMPLE, len(piece) // SAMPLES)
    for start in range(0, len(piece), step):
        sample = piece[start : start + SAMPLE]
        shrunk = probe.compress(sample, zstd.ZstdCompressor.FLUSH_FRAME)
        if len(shrunk) < len(sample) * DENSE:
            return False
    return True
