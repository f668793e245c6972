"""Puts files into a new place of a store, as `send` does: four at a time.

    python bench/put_objects.py ADDRESS FOLDER

What is measured by it is the store alone; `send` seals while it uploads.
"""

from __future__ import annotations

import mmap
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from standfast.backup.sealing import MOST_WORKERS
from standfast.backup.stores import open_store
from standfast.pace import Unlimited


def main(address: str, folder: str) -> None:
    store = open_store(address, Unlimited())
    store.create()

    def put(path: Path) -> None:
        with path.open("rb") as file:
            store.put(
                f"archives/{path.name}",
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ),
            )

    with ThreadPoolExecutor(MOST_WORKERS) as pool:
        list(pool.map(put, sorted(Path(folder).iterdir())))
    store.make_stable("archives")
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
