"""How standfast's zstd settings compare with zstd's own, speed and size.

Run it before changing a number in standfast/backup/compress.py: level 3 with small
hash tables against zstd's choice, and the fast way for dense data against level 3.
One thread, the same mixed data as bench/backup.py, best of three in turn.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import corpus

from standfast.backup import compress

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Way = Callable[[memoryview], Iterator[bytes]]

SIZE = 128 << 20
SEGMENT = 32 << 20
ROUNDS = 3
P = zstd.CompressionParameter


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="standfast-bench-") as folder:
        path = Path(folder) / "mix"
        corpus.mixed(path, SIZE)
        mixed = path.read_bytes()
    dense = random.Random(corpus.SEED).randbytes(SIZE // 4)
    for title, data in (("mixed", mixed), ("dense", dense)):
        print(f"{title}, {len(data) >> 20} MiB, one thread")
        _compare(data)
    return 0


def _compare(data: bytes) -> None:
    ways: dict[str, Way] = {"standfast (level 3)": compress.Compressor(3).compress}
    ways |= {f"zstd level {level}": _plain(level) for level in (1, 3, 4)}
    best = dict.fromkeys(ways, float("inf"))
    sizes = dict.fromkeys(ways, 0)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            sizes[name] = sum(
                len(part)
                for start in range(0, len(data), SEGMENT)
                for part in way(memoryview(data)[start : start + SEGMENT])
            )
            best[name] = min(best[name], time.perf_counter() - started)
    for name, seconds in best.items():
        rate = len(data) / seconds / 1e6
        print(f"  {rate:7.0f} MB/s  {sizes[name] / len(data):7.2%}  {name}")


def _plain(level: int) -> Way:
    options: dict[int, int] = {P.compression_level: level, P.checksum_flag: 1}
    maker = zstd.ZstdCompressor(options=options)

    def way(data: memoryview) -> Iterator[bytes]:
        yield maker.compress(data)
        yield maker.flush(zstd.ZstdCompressor.FLUSH_FRAME)

    return way


if __name__ == "__main__":
    sys.exit(main())
