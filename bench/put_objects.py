"""Puts files into a new place of a store, as `send` does: four at a time.

    python bench/put_objects.py ADDRESS TIMES FOLDER

Each file is put TIMES times, under different names. What is measured by it is the store
alone; `send` seals while it uploads.
"""

from __future__ import annotations

import itertools
import mmap
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from standfast.backup.stores import open_store
from standfast.pace import Unlimited

WORKERS = 4


def main(address: str, times: str, folder: str) -> None:
    store = open_store(address, Unlimited())
    store.create()

    def put(pair: tuple[int, Path]) -> None:
        turn, path = pair
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            store.put(f"archives/{turn}-{path.name}", data)

    paths = sorted(Path(folder).iterdir())
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(put, itertools.product(range(int(times)), paths)))
    store.make_stable("archives")
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
