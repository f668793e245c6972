"""Measures looking inside archives beside what it is compared with, in one run.

Streams are made by tests/streammaker.py, so that a million files need no pool; the
comparison with `restore` and `cp` is on a real one. Vaults lie in /dev/shm where it
has room. Rows take turns, medians are printed, and beside each goal whether it was met.

    python bench/browse.py [--quick] [--long] [--only PART]... [--json FILE]

Exits 0 whether goals are met or not: it measures. It takes away what it made.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

from backup import GIB, MIB, Bench, Row, _environment, _place, fresh

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]
import scratch  # noqa: E402 - it lies beside the demo
from streammaker import PLAIN, ZNODE, StreamMaker  # noqa: E402 - of the tests

REG, DIR = stat.S_IFREG, stat.S_IFDIR
BLOCK = 128 * 1024
FIRST = 8
PER_FOLDER = 1000
POINT = "pool/fs@snap"
KEY = "-i vault.key"


def main() -> int:
    arguments = parse()
    scratch.stop_on_signals()
    files = 20_000 if arguments.quick else 1_000_000
    room = 64 * MIB if arguments.quick else 4 * GIB
    try:
        with _place(room) as place, scratch.folder("standfast-bench-", place) as folder:
            bench = Bench(folder, _environment(folder), 1 if arguments.quick else 3, 0)
            parts = {
                "indexing": lambda: indexing(bench, 64 if arguments.quick else 512),
                "chain": lambda: chain(bench, gibs(arguments)),
                "crowd": lambda: crowd(bench, files),
                "tree": lambda: tree(bench, 32 if arguments.quick else 256),
            }
            for name in arguments.only or parts:
                parts[name]()
    except KeyboardInterrupt:
        print("interrupted; what was made is taken away", file=sys.stderr)
        return 130
    print(f"\nload when done: {os.getloadavg()[0]:.1f}")
    for line in bench.left_out:
        print(f"left out: {line}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(bench.figures, indent=2) + "\n")
    return 0


def gibs(arguments: argparse.Namespace) -> int:
    if arguments.long:
        return 16
    return 1 if arguments.quick else 4


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small, one round")
    parser.add_argument("--long", action="store_true", help="a chain of 16 GiB")
    parser.add_argument(
        "--only", action="append", choices=["indexing", "chain", "crowd", "tree"]
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    return parser.parse_args()


def indexing(bench: Bench, mibs: int) -> None:
    """What the index adds to send, for files of usual sizes and for tiny ones."""
    kinds = (("64 KiB", 64 * 1024, 1), ("16 KiB", 16 * 1024, 1), ("600 bytes", 600, 4))
    for size_text, size, part in kinds:
        title = f"files of {size_text} on average"
        count = mibs * MIB // (size + 1500) // part
        with (bench.folder / "stream").open("wb") as file:
            maker = StreamMaker(POINT, 7, sink=file.write)
            population(maker, count, size)
        words = "standfast backup send --quiet --stdin x vault"
        with_it, without = "send", "send --no-index"
        rows = bench.compare(
            f"send, {title}",
            Row(without, f"{words} --no-index", source="stream", before=fresh()),
            Row(with_it, words, source="stream", before=fresh()),
        )
        more = rows[with_it].wall / rows[without].wall
        bench.goal(f"time with the index / without, {title}", more, 1.15, most=True)
        more = rows[with_it].cpu / rows[without].cpu
        bench.goal(f"CPU with the index / without, {title}", more, 1.15, most=True)
        report_index(bench, count)
    bench.run("rm stream", os.devnull)


def report_index(bench: Bench, files: int) -> None:
    vault = bench.folder / "vault"
    size = sum(path.stat().st_size for path in vault.rglob("index.age"))
    print(f"  index: {size} bytes, {size / files:.0f} a file")


def population(maker: StreamMaker, count: int, size: int) -> None:
    """Write a tree of ``count`` files, a thousand to a folder."""
    chance = random.Random(3)
    stock = chance.randbytes(MIB) + b"a line of text, as there are many\n" * 40_000
    folders = -(-count // PER_FOLDER)
    maker.master()
    first = FIRST + folders
    maker.folder(4, [(b"d%05d" % n, FIRST + n, DIR) for n in range(folders)])
    for number in range(folders):
        inside = range(number * PER_FOLDER, min(count, (number + 1) * PER_FOLDER))
        entries = [(b"file-%07d" % n, first + n, REG) for n in inside]
        maker.folder(FIRST + number, entries)
    for number in range(count):
        length = min(MIB, int(chance.expovariate(1 / size)) + 1)
        start = chance.randrange(len(stock) - length)
        regular(maker, first + number, stock[start : start + length])
    maker.done()


def regular(maker: StreamMaker, number: int, data: bytes) -> None:
    """Write a file as zfs does: in one small block, or in blocks of 128 KiB."""
    block = BLOCK if len(data) > BLOCK else -(-len(data) // 512) * 512
    bonus = maker.znode(REG | 0o644, len(data))
    maker.object(number, PLAIN, bonus, block=block, bonus_kind=ZNODE)
    for start in range(0, len(data), block):
        maker.write(number, start, data[start : start + block].ljust(block, b"\0"))
    maker.free(number, -(-len(data) // block) * block)


def chain(bench: Bench, gibs: int) -> None:
    """How much is read for one file of 1 MiB of a full archive and its increments."""
    bench.run(fresh(), os.devnull)
    steps, piece = 4, 1 * MIB
    count = gibs * GIB // piece // steps
    chance = random.Random(5)
    guid = 0
    for number in range(steps):
        base, guid = guid, number + 7
        name = "pool/fs@snap" if number == steps - 1 else f"pool/fs@{number}"
        words = ["standfast", "backup", "send", "-q", "--stdin", "x", "vault"]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, cwd=bench.folder, env=bench.env
        ) as process:
            assert process.stdin is not None
            maker = StreamMaker(name, guid, base, sink=process.stdin.write)
            one_step(maker, count, chance, full=not base)
    stored = sum(
        path.stat().st_size
        for path in (bench.folder / "vault").rglob("*")
        if path.is_file()
    )
    line = f"standfast backup extract vault {POINT} d00000/f00077 --to out {KEY} --json"
    started = time.perf_counter()
    ran = subprocess.run(
        shlex.split(line),
        cwd=bench.folder,
        env=bench.env,
        capture_output=True,
        check=True,
    )
    took = time.perf_counter() - started
    document = json.loads(ran.stdout)
    share = document["stored_bytes_read"] / stored
    title = f"one file of 1 MiB from a chain of {gibs} GiB, {steps} archives"
    print(f"\n{title}: {took:.2f} s")
    print(f"  {document['segments_read']} segments, {share:.2%} of what is stored")
    bench.goal("share of the chain that is read", share, 0.05, most=True)
    bench.figures["chain"] = document
    bench.run("rm -rf out vault", os.devnull)


def one_step(
    maker: StreamMaker, count: int, chance: random.Random, *, full: bool
) -> None:
    """Write ``count`` files of 1 MiB; in an increment, the same ones anew."""
    stock = chance.randbytes(8 * MIB)
    if full:
        maker.master()
        maker.folder(4, [(b"d00000", FIRST, DIR)])
        entries = [(b"f%05d" % n, FIRST + 1 + n, REG) for n in range(min(count, 1500))]
        maker.folder(FIRST, entries)
    for number in range(count):
        at = chance.randrange(7 * MIB)
        regular(maker, FIRST + 1 + number, stock[at : at + MIB])
    maker.done()


def crowd(bench: Bench, files: int) -> None:
    """A snapshot of very many files: listing, finding, and the memory of it."""
    with (bench.folder / "stream").open("wb") as file:
        population(StreamMaker(POINT, 7, sink=file.write), files, 20)
    bench.run(fresh(), os.devnull)
    send = "standfast backup send --quiet --stdin x vault"
    sent = bench.run(send, "stream")
    bench.run("rm stream", os.devnull)
    print(f"\n{files} files: sent in {sent.wall:.1f} s, peak {sent.peak / MIB:.0f} MiB")
    report_index(bench, files)
    words = f"vault {POINT}"
    rows = bench.compare(
        f"a snapshot of {files} files",
        Row("ls of a folder of 1000", f"standfast backup ls {words} d00003 {KEY}"),
        Row("ls --names of it", f"standfast backup ls {words} d00003 --names {KEY}"),
        Row("cat", f"standfast backup cat {words} d00003/file-0003500 {KEY}"),
        Row("find", f"standfast backup find vault file-0003500 {KEY}", rounds=1),
        Row(
            "diff with itself",
            f"standfast backup diff vault {POINT} {POINT} {KEY}",
            rounds=1,
        ),
    )
    listed = rows["ls of a folder of 1000"].wall
    bench.goal("ls of a folder, cold, seconds", listed, 2, most=True)
    peak = max(sent.peak, *(row.peak for row in rows.values())) / MIB
    bench.goal("peak memory of any of these, MiB", peak, 512, most=True)
    bench.run("rm -rf vault", os.devnull)


def tree(bench: Bench, mibs: int) -> None:
    """A whole tree on a real pool: extract beside restore and cp."""
    try:
        with scratch.pool(bench.folder, 3 * mibs * MIB + 256 * MIB) as pool:
            on_a_pool(bench, pool, mibs)
    except scratch.Unavailable as reason:
        bench.left_out.append(f"extract beside restore and cp: {reason}")


def on_a_pool(bench: Bench, pool: str, mibs: int) -> None:
    scratch.must("zfs", "create", f"{pool}/data")
    top = bench.folder / "mnt" / "data"
    source = Path(os.__file__).parent
    done = 0
    for number in range(1000):
        if done > mibs * MIB:
            break
        for path in sorted(source.glob("*.py")):
            place = top / f"copy-{number}" / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            done += path.stat().st_size
    scratch.must("zfs", "snapshot", f"{pool}/data@snap")
    bench.run(fresh(), os.devnull)
    bench.run(f"standfast backup send -q {pool}/data@snap vault", os.devnull)
    point = f"{pool}/data@snap"
    ours, theirs = "extract", "restore and cp"
    back = f"{pool}/back"
    restore = f"standfast backup restore -q vault {point} {back} {KEY}"
    there = f"zfs list {back} >/dev/null 2>&1 && [ $n -lt 300 ]"
    destroy = f"zfs destroy -r {back} 2>/dev/null; n=$((n + 1)); sleep 0.2"
    gone = f"n=0; while {there}; do {destroy}; done"
    rows = bench.compare(
        f"a tree of {mibs} MiB of source files",
        Row(
            ours,
            f"standfast backup extract -q vault {point} --to out {KEY}",
            before="rm -rf out",
        ),
        Row(theirs, f"{restore} && cp -a mnt/back copy", before=f"rm -rf copy; {gone}"),
    )
    bench.run("diff -r out copy", os.devnull)
    bench.faster(rows, ours, theirs, 0.5)


if __name__ == "__main__":
    sys.exit(main())
