"""The data of the measurements: a mixed stream, and a send stream made of it.

1 MiB pieces in an order shuffled with a fixed seed: about 31 % random, 38 %
programs and libraries of this system, 25 % source text, 6 % zeros; roughly what a
dataset of a server holds. Files are found by a bounded walk. The shares are exact;
the files are the machine's own, so compare ratios between machines, not sizes.
"""

from __future__ import annotations

import itertools
import os
import random
import struct
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.zfs.fletcher import Fletcher4

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
SHARES = {"random": 0.31, "programs": 0.38, "source": 0.25, "zeros": 0.06}
SEED = 20261122
# No walk looks at more entries than this, whatever the machine holds.
MOST_ENTRIES = 60_000
SOURCE_SUFFIXES = {".py", ".h", ".c", ".pl", ".pm", ".hpp", ".sh", ".pyi", ".txt"}

BLOCK = 128 * 1024
RECORD = 312
SUMMED = 280


def mixed(path: Path, size: int) -> None:
    """Write ``size`` bytes (whole MiB) of mixed data to a new file."""
    count = size // MIB
    shares = {kind: round(count * share) for kind, share in SHARES.items()}
    shares["random"] += count - sum(shares.values())
    kinds = [kind for kind, number in shares.items() for _ in range(number)]
    chance = random.Random(SEED)
    chance.shuffle(kinds)
    sources: dict[str, Iterator[bytes]] = {
        "random": iter(lambda: chance.randbytes(MIB), b""),
        "zeros": itertools.repeat(bytes(MIB)),
        "programs": _pieces(_programs, shares["programs"]),
        "source": _pieces(_source_files, shares["source"]),
    }
    with path.open("wb") as file:
        for kind in kinds:
            file.write(next(sources[kind]))


def _pieces(files: Callable[[], Iterator[Path]], count: int) -> Iterator[bytes]:
    """Yield MiB pieces of files joined; from the start again when they end."""
    rest = bytearray()
    made = 0
    while made < count:
        before = made
        for path in files():
            rest += _contents(path)
            while len(rest) >= MIB and made < count:
                yield bytes(rest[:MIB])
                del rest[:MIB]
                made += 1
            if made == count:
                return
        if made == before and not rest:
            raise SystemExit("this machine has no files to make the stream of")


def _contents(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(32 * MIB)
    except OSError:
        return b""


def _programs() -> Iterator[Path]:
    for path in _walk([Path("/usr/bin"), Path("/usr/lib")]):
        if path.suffix in SOURCE_SUFFIXES or path.suffix == ".pyc":
            continue
        if _contents_start(path) == b"\x7fELF":
            yield path


def _contents_start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError:
        return b""


def _source_files() -> Iterator[Path]:
    places = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    for path in _walk([*places, Path("/usr/include"), Path("/usr/share/perl")]):
        if path.suffix in SOURCE_SUFFIXES:
            yield path


def _walk(tops: list[Path]) -> Iterator[Path]:
    """Yield regular files in a fixed order."""
    seen = 0
    for top in tops:
        for folder, folders, names in os.walk(top):
            folders.sort()
            for name in sorted(names):
                seen += 1
                if seen > MOST_ENTRIES:
                    return
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    yield path


def send_stream(source: Path, path: Path) -> None:
    """Write a ZFS send stream whose file contents are those of ``source``.

    BEGIN, one WRITE record for each 128 KiB, END; little-endian, a checksum in each
    record and over the whole, as `zfs send` writes it.
    """
    sums = Fletcher4()
    guid = 0x1234_5678_9ABC_DEF1
    begin = bytearray(RECORD)
    struct.pack_into("<IIQQQIIQQ", begin, 0, 0, 0, 0x2F5BACBAC, 1, 0, 2, 0, guid, 0)
    begin[56 : 56 + 12] = b"bench/fs@now"
    with source.open("rb") as blocks, path.open("wb") as out:
        sums.update(begin)
        out.write(begin)
        offset = 0
        while block := blocks.read(BLOCK):
            head = bytearray(SUMMED)
            struct.pack_into("<IIQIIQQQ", head, 0, 3, 0, 1, 19, 0, offset, BLOCK, guid)
            out.write(_summed(sums, head) + block)
            sums.update(block)
            offset += len(block)
        end = bytearray(SUMMED)
        struct.pack_into("<II4QQ", end, 0, 5, 0, *sums.state, guid)
        out.write(_summed(sums, end))


def _summed(sums: Fletcher4, head: bytearray) -> bytes:
    """Return a record's head with its checksum, and take both into the sums."""
    sums.update(head)
    tail = struct.pack("<4Q", *sums.state)
    sums.update(tail)
    return bytes(head) + tail
