"""Names of datasets and snapshots: checked once, then passed on as they are.

The rules are those of zfs(8) and of zfs_namecheck.c in OpenZFS: components of
letters, digits and ``-_.:`` plus the space, divided by slashes; a pool starts with
a letter; 255 bytes in all.
"""

from __future__ import annotations

import re

from standfast.errors import UsageError

LONGEST_NAME = 255
_COMPONENT = r"[A-Za-z0-9_.:\- ]+"
_DATASET = re.compile(rf"[A-Za-z][A-Za-z0-9_.:\- ]*(/{_COMPONENT})*")
_SNAPSHOT = re.compile(_COMPONENT)


def check_dataset(name: str) -> str:
    """Return a dataset's name if it is one.

    Raises:
        UsageError: it is not.
    """
    if len(name) > LONGEST_NAME or not _DATASET.fullmatch(name):
        raise UsageError(f"not a dataset name: {name!r}", hint="write POOL/PATH")
    return name


def split_snapshot(name: str) -> tuple[str, str]:
    """Return (dataset, snapshot) of ``pool/fs@snap``.

    Raises:
        UsageError: it is no snapshot name.
    """
    dataset, at, snapshot = name.partition("@")
    if not at or len(name) > LONGEST_NAME or not _SNAPSHOT.fullmatch(snapshot):
        raise UsageError(
            f"not a snapshot name: {name!r}",
            hint="write DATASET@SNAPSHOT; `zfs list -t snapshot` lists them",
        )
    return check_dataset(dataset), snapshot
