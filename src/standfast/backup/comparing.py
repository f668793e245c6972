"""What came back, compared with its source: by what a full ``zfs send`` of each holds.

That needs neither to be mounted, nor a key: an encrypted dataset whose key is away is
compared by its raw streams. A volume is compared like a file system.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from standfast.backup.send import CommandProducer
from standfast.backup.wayback import Link, dataset_of
from standfast.errors import CommandError, DamagedError, StandfastError
from standfast.units import MIB
from standfast.zfs.contents import KEY_BYTES, ContentDigest
from standfast.zfs.listing import list_tree
from standfast.zfs.names import check_dataset
from standfast.zfs.records import StreamCheck
from standfast.zfs.streams import exists, send_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from standfast.host import Host
    from standfast.zfs.listing import Point

SAME, GONE, LOCKED = "same", "gone", "locked"


def compare(
    host: Host, link: Link, target: str, progress: Callable[[int, int], None]
) -> str:
    """Compare what came back with its source, dataset by dataset.

    Raises:
        DamagedError: they differ.
    """
    assert link.manifest.stream is not None
    top = dataset_of(link.manifest.stream.name)
    last = {dataset_of(part.name): part for part in link.taken}
    answers = []
    for source, part in last.items():
        origin = find_snapshot(host, source, int(part.guid))
        back = find_snapshot(host, target + source.removeprefix(top), int(part.guid))
        if back is None:
            raise DamagedError(f"{part.name} did not come back")
        if origin is None:
            answers.append(GONE)
            continue
        answers.append(_compare_one(host, origin, back, progress))
    return next((answer for answer in answers if answer != SAME), SAME)


def _compare_one(
    host: Host, origin: Point, back: Point, progress: Callable[[int, int], None]
) -> str:
    key = os.urandom(KEY_BYTES)
    flags = ["-w"] if locked(host, back.dataset) else []
    sums = []
    for point in (back, origin):
        try:
            sums.append(contents(host, point, flags, key, progress))
        except CommandError:
            if point is back:
                raise
            # The source's key is away, or it went while we looked: not our matter.
            return LOCKED
    if sums[0] != sums[1]:
        raise DamagedError(
            f"what came back of {origin.name} is not what is there",
            hint="its GUID is the same; compare the files of both by hand",
        )
    return SAME


def contents(
    host: Host,
    point: Point,
    flags: Sequence[str],
    key: bytes,
    progress: Callable[[int, int], None],
) -> int:
    """Return the content digest of a snapshot, read by a full ``zfs send``.

    Raises:
        CommandError: zfs failed.
        StreamError: what it gave is no whole stream.
    """
    digest = ContentDigest(key)
    check = StreamCheck(digest)
    producer = CommandProducer(host.spawn(send_argv(point.name, flags)))
    room = memoryview(bytearray(MIB))
    while count := producer.read(room):
        check.feed(room[:count])
        progress(0, count)
    producer.finish()
    check.finish()
    return digest.finish()


def find_snapshot(host: Host, dataset: str, guid: int) -> Point | None:
    """Return a dataset's snapshot of that GUID, or None."""
    try:
        # The name is a stream's word, and no stream may make it an option of zfs.
        if not exists(host, check_dataset(dataset)):
            return None
        snapshots = list_tree(host, [dataset], deep=False).dataset(dataset).snapshots
    except StandfastError:
        return None
    return next((point for point in snapshots if point.guid == guid), None)


def locked(host: Host, dataset: str) -> bool:
    """Return whether a dataset is encrypted and its key is away."""
    argv = ["zfs", "get", "-Hp", "-o", "value", "keystatus", dataset]
    result = host.run(argv, ok=range(256))
    return result.code == 0 and result.stdout.strip() == b"unavailable"
