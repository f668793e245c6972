"""Seals standard input into a directory, with challenges for audits or without.

    python bench/seal.py FOLDER with|without < DATA

The part of `send` that audits add to, so that its share can be told.
"""

from __future__ import annotations

import os
import sys

from standfast.backup.audit import Sampler
from standfast.backup.model import DEFAULT_SEGMENT_SIZE
from standfast.backup.recipients import X25519Identity
from standfast.backup.sealing import Recipe, SealingLine
from standfast.backup.stores import open_store
from standfast.pace import Unlimited


def main(folder: str, how: str) -> None:
    store = open_store(folder, Unlimited())
    store.create()
    sampler = Sampler("0" * 32)
    recipe = Recipe(
        recipient=X25519Identity.generate().recipient,
        segment_size=DEFAULT_SEGMENT_SIZE,
        level=3,
        fingerprint_key=os.urandom(32),
    )
    see = {"with": sampler.see, "without": lambda _name, _data: None}[how]
    line = SealingLine(store, "archives", recipe, lambda _plain, _stored: None, see=see)
    line.run(lambda room: os.readv(0, [room]), lambda _data: None, lambda: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
