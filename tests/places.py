"""Places in the file system where a store under test keeps its objects."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from standfast.backup.stores import Store


@dataclasses.dataclass
class Folder:
    """A place in the file system, reached by any store."""

    root: Path
    store: Store
    cut: Callable[[str, bytes], None]
    foreign_owner: bool = False

    def plant(self, name: str, kind: str, data: bytes = b"") -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            path.write_bytes(data)
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "link":
            target = self.root.parent / f"target-of-{self.root.name}"
            target.write_bytes(data)
            path.symlink_to(target)
        else:
            path.symlink_to("nowhere")
        if self.foreign_owner:
            for made in self.root.rglob("*"):
                os.chown(made, self.root.stat().st_uid, -1, follow_symlinks=False)

    def put_cut(self, name: str, data: bytes) -> None:
        self.cut(name, data)
