"""The way back: an archive to ``zfs receive``, a file or standard output.

Everything is checked before the first byte goes out: signature, listing, every
object's hash, identity, manifest, target. While it streams, a segment is released
only when all of it is authentic, and a stream's end only when the whole stream has
passed its checks; a receiver that gets no end keeps nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from standfast.backup.model import LARGEST_MANIFEST, MANIFEST_OBJECT
from standfast.backup.opening import Recognised, open_manifest, segments
from standfast.backup.proof import COMMITTED, REFUSED
from standfast.backup.send import Guard
from standfast.backup.verify import (
    Level,
    Verifier,
    check_hashes,
    compare_stream,
    refuse,
)
from standfast.backup.wayback import Link, choose, way_back
from standfast.errors import (
    CommandError,
    DamagedError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from standfast.backup.model import Manifest
    from standfast.backup.proof import Archive, Trust
    from standfast.backup.recipients import (
        X25519Identity,
    )
    from standfast.backup.vault import Vault

HELD_BACK = 312


class Sink(Protocol):
    """Where restored plaintext goes."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes."""
        ...

    def end_part(self) -> None:
        """A substream of several has come to its end; another follows."""
        ...

    def finish(self) -> None:
        """All has come and all of it is good: make it count."""
        ...

    def abandon(self) -> None:
        """It is not good: leave nothing that looks whole."""
        ...


@dataclass(frozen=True)
class Found:
    """An archive that passed every check that needs no plaintext.

    Attributes:
        archive: judged whole and trusted.
        manifest: its manifest.
        parts: indexes of the substreams that are wanted; empty for all of it.
        recognised: what was hashed here before.
    """

    archive: Archive
    manifest: Manifest
    parts: tuple[int, ...] = ()
    recognised: Recognised = field(default_factory=Recognised)

    @property
    def link(self) -> Link:
        """The archive as a link of a way back."""
        return Link(self.archive, self.manifest, self.parts)


def find(vault: Vault, wanted: str, trust: Trust, identity: X25519Identity) -> Found:
    """Choose the archive that a person means, and check listing and signature.

    Raises:
        UsageError: the vault has no such archive.
        DamagedError: it is damaged.
        NotTrustedError: nobody trusted has signed it.
    """
    found = _Search(vault, wanted, trust, identity)
    return _found(found.last)


def find_way(
    vault: Vault, wanted: str, trust: Trust, identity: X25519Identity
) -> list[Found]:
    """Return the archives that lead to what a person means, in order.

    Raises:
        UsageError: the vault has no such archive.
        DamagedError: it, or what it builds on, is damaged or missing.
        NotTrustedError: nobody trusted has signed one of them.
    """
    found = _Search(vault, wanted, trust, identity)
    return [_found(link) for link in found.way()]


def _found(link: Link) -> Found:
    return Found(link.archive, link.manifest, link.parts)


class _Search:
    """A vault's archives and manifests, and one of them that is wanted."""

    def __init__(
        self, vault: Vault, wanted: str, trust: Trust, identity: X25519Identity
    ) -> None:
        survey, _ = vault.survey(trust)
        self._refused = [a for a in survey.archives if a.standing == REFUSED]
        self._whole = [a for a in survey.archives if a.standing == COMMITTED]
        for archive in survey.archives:
            if archive.id == wanted:
                refuse(archive)
        self._manifests, unread = manifests_of(vault, self._whole, identity)
        try:
            archives = [a for a in self._whole if a.id in self._manifests]
            self.last = choose(wanted, archives, self._manifests)
        except UsageError:
            for archive in self._whole:
                if archive.id in unread and archive.id.startswith(wanted):
                    raise unread[archive.id] from None
            # What is wanted may be among those that were refused: say so first.
            for archive in self._refused:
                refuse(archive)
            for error in unread.values():
                raise error from None
            raise

    def way(self) -> list[Link]:
        try:
            return way_back(self.last, self._whole, self._manifests)
        except DamagedError:
            bases = {a.statement.base for a in self._whole if a.statement}
            for archive in self._refused:
                if archive.id in bases:
                    refuse(archive)
            raise


def manifests_of(
    vault: Vault, archives: Sequence[Archive], identity: X25519Identity
) -> tuple[dict[str, Manifest], dict[str, DamagedError]]:
    """Open the manifests of archives; return them and what failed, by archive id."""
    names = [archive.path(MANIFEST_OBJECT) for archive in archives]
    sealed = vault.store.get_small(names, LARGEST_MANIFEST)
    opened: dict[str, Manifest] = {}
    failed: dict[str, DamagedError] = {}
    for archive, name in zip(archives, names, strict=True):
        if name not in sealed:
            failed[archive.id] = DamagedError(f"{name} is missing")
            continue
        try:
            opened[archive.id] = open_manifest(vault, archive, identity, sealed[name])
        except DamagedError as error:
            failed[archive.id] = error
    return opened, failed


def check_before(
    vault: Vault, found: Found, progress: Callable[[int, int], None]
) -> None:
    """Hash every object of the archive where it lies.

    Raises:
        DamagedError: one is missing or altered.
    """
    store = vault.store
    digests = found.recognised.digests(store) if store.near else store.digests
    verifier = Verifier(Level.HASH, digests, None, progress)
    refuse(check_hashes(found.archive, verifier))


def restore(
    vault: Vault,
    found: Found,
    identity: X25519Identity,
    sink: Sink,
    progress: Callable[[int, int], None],
) -> None:
    """Stream an archive into a sink.

    Raises:
        DamagedError: something is not what was sealed; the sink was abandoned.
        StoreError: the store failed; the sink was abandoned.
        CommandError: the receiver failed.
    """
    try:
        _stream(vault, found, identity, sink, progress)
    except BaseException:
        sink.abandon()
        raise
    sink.finish()


def _stream(
    vault: Vault,
    found: Found,
    identity: X25519Identity,
    sink: Sink,
    progress: Callable[[int, int], None],
) -> None:
    guard = Guard(None)
    manifest, recognised = found.manifest, found.recognised
    cutter = Cutter(guard, found.parts)
    parts = segments(vault, found.archive, manifest, identity, recognised)
    for piece in _held(parts, len(manifest.segments)):
        guard.see(piece)
        if guard.size == manifest.size:
            compare_stream(guard, manifest)
        for kept, ends in cutter.cut(piece):
            sink.write(kept)
            if ends:
                sink.end_part()
        progress(len(piece), 0)
    if guard.size != manifest.size:
        raise DamagedError(f"{manifest.name} is shorter than it was")


class Cutter:
    """Cuts chosen substreams out of a stream that passes a guard.

    Args:
        guard: sees each piece first.
        parts: indexes of the substreams; empty for all there is.
    """

    def __init__(self, guard: Guard, parts: Sequence[int]) -> None:
        self._guard = guard
        self._parts = parts
        self._at = 0

    def cut(self, piece: memoryview) -> Iterator[tuple[memoryview, bool]]:
        """Yield what of the piece is in the chosen substreams, each by itself.

        Yields:
            The bytes, and whether a substream ends there that is not the last.
        """
        start = self._at
        self._at += len(piece)
        if not self._parts:
            yield piece, False
            return
        spans = self._guard.spans()
        for index in self._parts:
            if index >= len(spans):
                return
            begin, end = spans[index]
            first = max(begin, start)
            last = self._at if end is None else min(end, self._at)
            if first < last:
                ends = last == end and index != self._parts[-1]
                yield piece[first - start : last - start], ends


def _held(parts: Iterator[memoryview], count: int) -> Iterator[memoryview]:
    """Yield all ``count`` parts, the last of them split so that its end comes alone.

    The END record of a stream is its last 312 bytes; it goes out after all that
    comes before it has been checked as a whole.
    """
    for number, part in enumerate(parts, 1):
        if number < count:
            yield part
            continue
        cut = max(0, len(part) - HELD_BACK)
        if cut:
            yield part[:cut]
        yield part[cut:]


class FileSink:
    """A new file, there only when it is whole."""

    def __init__(self, path: Path) -> None:
        if path.exists() or path.is_symlink():
            raise UsageError(
                f"{path} exists already", hint="restore never overwrites a file"
            )
        self._path = path
        self._part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            self._fd = os.open(self._part, flags, 0o600)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from None

    def write(self, data: memoryview) -> None:
        """Write to the temporary file.

        Raises:
            CommandError: the disk refused.
        """
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise CommandError(f"cannot write {self._path}: {error.strerror}") from None

    def end_part(self) -> None:
        """Substreams follow each other in the file."""

    def finish(self) -> None:
        """Flush to the disk and give the file its name, unless it is taken by now."""
        try:
            os.fsync(self._fd)
            os.close(self._fd)
            os.link(self._part, self._path)
        except OSError as error:
            raise CommandError(f"cannot write {self._path}: {error.strerror}") from None
        finally:
            self._part.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Remove the temporary file."""
        os.close(self._fd)
        self._part.unlink(missing_ok=True)


class PipeSink:
    """Standard output, or any open descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: memoryview) -> None:
        """Write to the descriptor.

        Raises:
            CommandError: its reader is gone.
        """
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise CommandError(f"cannot write the output: {error.strerror}") from None

    def end_part(self) -> None:
        """Substreams follow each other in the output."""

    def finish(self) -> None:
        """Nothing is left to do."""

    def abandon(self) -> None:
        """What was written is authentic but not all; the exit status says so."""
