"""``zfs receive``: one archive after the other, into a new dataset or one begun.

What is there already is told by GUID, so that a restore that was cut goes on with
the archives that are missing. The END of each stream is its receiver's sign that
all of it came; a receiver that gets none keeps nothing of that stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.errors import CommandError, DamagedError, UsageError
from standfast.zfs.listing import list_tree
from standfast.zfs.resuming import ResumedStream, parse_token
from standfast.zfs.streams import (
    exists,
    receive_argv,
    resume_token,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.backup.model import Substream
    from standfast.backup.wayback import Link
    from standfast.host import Host
    from standfast.host.process import Process
    from standfast.zfs.listing import Listing
    from standfast.zfs.resuming import Resumption


@dataclass(frozen=True)
class Landing:
    """What a restore into a dataset begins with.

    Attributes:
        target: the dataset, or ``DATASET@SNAPSHOT`` for a single stream.
        done: how many archives of the way are there already.
        flags: for the first ``zfs receive``.
        later: for those that follow.
        partial: whether a cut ``zfs receive -s`` of these archives has left a part
            there, which has to be given up first, or gone on with.
        resume: where inside of the first missing archive to go on; None to begin it
            anew.
    """

    target: str
    done: int
    flags: tuple[str, ...]
    later: tuple[str, ...]
    partial: bool = False
    resume: Resumption | None = None


def plan_landing(
    host: Host, target: str, flags: Sequence[str], way: Sequence[Link]
) -> Landing:
    """Decide where to begin; refuse what cannot or must not be received into.

    Args:
        host: where zfs is.
        target: the dataset to receive into.
        flags: for ``zfs receive``; ``-F`` among them lets it roll back.
        way: the archives, in order.

    Raises:
        UsageError: the way is no send stream, or the target is something else.
        CommandError: zfs cannot be asked.
    """
    if not way[-1].taken:
        raise UsageError(f"{way[-1].name} is no send stream", hint="use --output FILE")
    several = len(way) > 1 or len(way[0].parts) > 1
    dataset, _, snapshot = target.partition("@")
    if snapshot and (several or way[0].is_tree):
        raise UsageError(
            f"several snapshots come back, so {target} cannot be the name of one",
            hint=f"write {dataset}",
        )
    # What we have received ourselves may be rolled back to it: only the clock has
    # touched it since.
    later = tuple(dict.fromkeys(["-F", *flags]))
    if not exists(host, dataset):
        return Landing(target, 0, tuple(flags), later)
    start = _partial(host, dataset, way)
    partial = start is not None
    listing = list_tree(host, [dataset])
    done = _already(listing, dataset, way, force="-F" in flags)
    # With no snapshot it is the part alone, and goes with it.
    fresh = partial and not listing.dataset(dataset).snapshots
    if not done and not fresh and "-F" not in flags:
        raise _taken_already(target)
    resume = start if start and _goes_on(way[done:], start, flags) else None
    return Landing(target, done, tuple(flags), later, partial, resume)


def check_free(host: Host, target: str, flags: Sequence[str]) -> None:
    """Refuse to receive over a dataset that is there, unless it may be rolled back.

    Raises:
        UsageError: it is there.
        CommandError: zfs cannot be asked.
    """
    if exists(host, target.partition("@")[0]) and "-F" not in flags:
        raise _taken_already(target)


def _taken_already(target: str) -> UsageError:
    return UsageError(
        f"{target} exists already",
        hint="choose a new name, or pass --force to let zfs receive roll it back (-F)",
    )


def _partial(host: Host, dataset: str, way: Sequence[Link]) -> Resumption | None:
    """Return what of one of these streams was kept there, if anything was.

    Raises:
        UsageError: a part of something else was.
    """
    token = resume_token(host, dataset)
    if not token:
        return None
    ours = {part.guid for link in way for part in link.taken}
    start = parse_token(token)
    if start is None or str(start.guid) not in ours:
        raise UsageError(
            f"{dataset} holds a part of another stream, whose receive was cut",
            hint=f"`zfs receive -A {dataset}` gives it up",
        )
    return start


def _goes_on(missing: Sequence[Link], start: Resumption, flags: Sequence[str]) -> bool:
    """Return whether the rest of a stream can be made for what was kept of it."""
    stream = missing[0].manifest.stream if missing else None
    return (
        stream is not None
        and not stream.compound
        and not stream.big_endian
        and "RAW" not in stream.features
        and stream.guid == str(start.guid)
        and "-s" in flags
    )


def _already(
    listing: Listing, dataset: str, way: Sequence[Link], *, force: bool
) -> int:
    """Return how many archives of the way a dataset has received."""
    snapshots = listing.dataset(dataset).snapshots
    present = {str(point.guid) for point in snapshots}
    below = {str(p.guid) for d in listing.below(dataset) for p in d.snapshots}
    done = 0
    for number, link in enumerate(way, 1):
        ends = {part.guid for part in _last_parts(link)}
        if link.guid in present and (ends <= below or not link.is_tree):
            done = number
    newest = snapshots[-1] if snapshots else None
    if done and newest and str(newest.guid) != way[done - 1].guid and not force:
        raise UsageError(
            f"{dataset} has {newest.name}, which is not of these archives",
            hint="choose a new name, or pass --force to let zfs receive "
            "roll it back (-F)",
        )
    return done


def _last_parts(link: Link) -> list[Substream]:
    """Return the last substream of each dataset."""
    last = {part.name.partition("@")[0]: part for part in link.taken}
    return list(last.values())


def make_room(host: Host, target: str, link: Link, ours: frozenset[str]) -> None:
    """Rename snapshots of the target that have the name of one that is to come.

    Names are used again (``@yesterday``), and two of one name cannot be together.

    Args:
        host: where zfs is.
        target: the dataset; it may not be there yet.
        link: what is to come.
        ours: GUIDs that came by this way back; nothing else is renamed.

    Raises:
        CommandError: zfs refuses.
    """
    if "@" in target or not exists(host, target):
        return
    names = {part.name.partition("@")[2]: part.guid for part in link.taken}
    for point in list_tree(host, [target], deep=False).dataset(target).snapshots:
        name = point.short[1:]
        guid = str(point.guid)
        if guid in ours and names.get(name, guid) != guid:
            host.run(["zfs", "rename", point.name, f"{target}@{name}-{guid}"])


class ReceiveSink:
    """``zfs receive`` into a dataset.

    Args:
        host: where zfs is.
        target: the dataset, or ``DATASET@SNAPSHOT``.
        flags: for ``zfs receive``.
        taken: the substreams that are received; which of them get a ``zfs receive``
            of their own is said by ``end_part``.
        later: flags for all but the first of several.
    """

    def __init__(
        self,
        host: Host,
        target: str,
        flags: Sequence[str],
        taken: Sequence[Substream],
        later: Sequence[str] = ("-F",),
    ) -> None:
        self._host = host
        self._target = target
        self._taken = taken
        self._later = later
        self._ended = False
        self._process = self._start(flags)

    def write(self, data: memoryview) -> None:
        """Write to the receiver.

        Raises:
            CommandError: it gave up, with its own words.
        """
        if self._ended:
            self._process = self._start(self._later)
            self._ended = False
        try:
            self._process.write(data)
        except BrokenPipeError:
            result = self._process.finish()
            raise CommandError(result.complaint(), hint=_hint(result.stderr)) from None

    def end_part(self) -> None:
        """A substream has come to its end, and another may follow.

        Raises:
            CommandError: the receiver failed.
        """
        self._wait()
        self._ended = True

    def finish(self) -> None:
        """Wait for the receiver and compare GUIDs.

        Raises:
            CommandError: it failed.
            DamagedError: what it received is another snapshot.
        """
        if not self._ended:
            self._wait()
        dataset = self._target.partition("@")[0]
        tree = len({part.name.partition("@")[0] for part in self._taken}) > 1
        listing = list_tree(self._host, [dataset], deep=tree)
        there = {str(p.guid) for d in listing.below(dataset) for p in d.snapshots}
        for part in self._taken:
            if part.guid not in there:
                raise DamagedError(f"{part.name} was received with another guid")

    def abandon(self) -> None:
        """Kill the receiver before it sees an end; it keeps nothing."""
        if not self._ended:
            self._process.destroy()

    def _start(self, flags: Sequence[str]) -> Process:
        return self._host.spawn(receive_argv(self._target, flags), stdin=True)

    def _wait(self) -> None:
        result = self._process.finish()
        if result.code != 0:
            raise CommandError(result.complaint(), hint=_hint(result.stderr))


class ResumingSink:
    """``zfs receive -s`` that is given the rest of what it has a part of.

    Args:
        inner: the receiver.
        start: where it goes on.
    """

    def __init__(self, inner: ReceiveSink, start: Resumption) -> None:
        self._inner = inner
        self._rest = ResumedStream(start)
        self.given = 0

    def write(self, data: memoryview) -> None:
        """Pass on what the receiver does not have; see ReceiveSink."""
        for part in self._rest.feed(data):
            self._inner.write(memoryview(part))
            self.given += len(part)

    def end_part(self) -> None:
        """A single stream has no parts."""

    def finish(self) -> None:
        """Wait for the receiver and compare GUIDs; see ReceiveSink."""
        self._inner.finish()

    def abandon(self) -> None:
        """Kill the receiver; it keeps what it has got."""
        self._inner.abandon()


def _hint(words: str) -> str:
    if "has been modified" in words:
        return "pass --force to let zfs receive roll it back (-F)"
    return ""
