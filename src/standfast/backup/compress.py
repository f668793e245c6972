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
    from collections.abc import Iterator, Mapping

DEFAULT_LEVEL = 3
LEVELS = range(1, 20)
# Data is judged and compressed a piece at a time.
PIECE = MIB
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


def compress(data: memoryview, level: int) -> Iterator[bytes]:
    """Yield complete zstd frames for ``data``, in pieces of any size."""
    normal = _compressor(level, _TUNED if level == DEFAULT_LEVEL else {})
    fast = _compressor(FAST_LEVEL, {})
    probe = zstd.ZstdCompressor(options={_P.compression_level: PROBE_LEVEL})
    current = normal
    begun = False
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        wanted = fast if _is_dense(piece, probe) else normal
        if wanted is not current:
            if begun:
                yield current.flush(zstd.ZstdCompressor.FLUSH_FRAME)
            current = wanted
        begun = True
        yield current.compress(piece)
    yield current.flush(zstd.ZstdCompressor.FLUSH_FRAME)


def decompress(data: bytes | bytearray | memoryview, size: int) -> bytes:
    """Return exactly ``size`` bytes from complete frames.

    Each frame must end, carry a good checksum, and together they must give
    ``size`` bytes; output is never allowed to grow past that.

    Raises:
        DamagedError: any of that does not hold.
    """
    parts: list[bytes] = []
    total = 0
    rest = memoryview(data)
    try:
        while rest:
            end = zstd.get_frame_size(rest)
            frame = zstd.ZstdDecompressor()
            part = frame.decompress(rest[:end], size - total + 1)
            total += len(part)
            if not frame.eof or total > size:
                raise DamagedError("compressed data is larger than it says")
            parts.append(part)
            rest = rest[end:]
    except zstd.ZstdError as error:
        raise DamagedError(f"compressed data is damaged: {error}") from None
    if total != size:
        raise DamagedError("compressed data is shorter than it says")
    return parts[0] if len(parts) == 1 else b"".join(parts)


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
