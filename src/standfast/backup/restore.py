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
from standfast.backup.plan import choose_archive
from standfast.backup.proof import COMMITTED, REFUSED
from standfast.backup.send import Guard
from standfast.backup.verify import (
    Level,
    Verifier,
    check_hashes,
    compare_stream,
    refuse,
)
from standfast.errors import (
    CommandError,
    DamagedError,
    UsageError,
)
from standfast.zfs.streams import exists, guid_of, receive_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from standfast.backup.model import Manifest
    from standfast.backup.proof import Archive, Trust
    from standfast.backup.recipients import (
        X25519Identity,
    )
    from standfast.backup.vault import Vault
    from standfast.host import Host

HELD_BACK = 312


class Sink(Protocol):
    """Where restored plaintext goes."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes."""
        ...

    def finish(self) -> None:
        """All has come and all of it is good: make it count."""
        ...

    def abandon(self) -> None:
        """It is not good: leave nothing that looks whole."""
        ...


@dataclass(frozen=True)
class Found:
    """An archive that passed every check that needs no plaintext."""

    archive: Archive
    manifest: Manifest
    recognised: Recognised = field(default_factory=Recognised)


def find(vault: Vault, wanted: str, trust: Trust, identity: X25519Identity) -> Found:
    """Choose the archive that a person means, and check listing and signature.

    Raises:
        UsageError: the vault has no such archive.
        DamagedError: it is damaged.
        NotTrustedError: nobody trusted has signed it.
    """
    survey, _ = vault.survey(trust)
    whole = [a for a in survey.archives if a.standing == COMMITTED]
    for archive in survey.archives:
        if archive.id == wanted:
            refuse(archive)
    manifests, unread = manifests_of(vault, whole, identity)
    try:
        chosen = choose_archive(wanted, whole, manifests)
    except UsageError:
        # What is wanted may be among those that were refused: say so first.
        for archive in survey.archives:
            if archive.standing == REFUSED:
                refuse(archive)
        for error in unread.values():
            raise error from None
        raise
    if chosen.id in unread:
        raise unread[chosen.id]
    return Found(chosen, manifests[chosen.id])


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
    parts = segments(vault, found.archive, manifest, identity, recognised)
    for piece in _held(parts, len(manifest.segments)):
        guard.see(piece)
        if guard.size == manifest.size:
            compare_stream(guard, manifest)
        sink.write(piece)
        progress(len(piece), 0)
    if guard.size != manifest.size:
        raise DamagedError(f"{manifest.name} is shorter than it was")


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

    def finish(self) -> None:
        """Nothing is left to do."""

    def abandon(self) -> None:
        """What was written is authentic but not all; the exit status says so."""


class ReceiveSink:
    """``zfs receive`` into a dataset."""

    def __init__(
        self, host: Host, target: str, flags: Sequence[str], manifest: Manifest
    ) -> None:
        self._host = host
        self._target = target
        self._manifest = manifest
        self._process = host.spawn(receive_argv(target, flags), stdin=True)

    def write(self, data: memoryview) -> None:
        """Write to the receiver.

        Raises:
            CommandError: it gave up, with its own words.
        """
        try:
            self._process.write(data)
        except BrokenPipeError:
            result = self._process.finish()
            raise CommandError(result.complaint()) from None

    def finish(self) -> None:
        """Wait for the receiver and compare the snapshot's GUID.

        Raises:
            CommandError: it failed.
            DamagedError: what it received is another snapshot.
        """
        result = self._process.finish()
        if result.code != 0:
            raise CommandError(result.complaint())
        stream = self._manifest.stream
        assert stream is not None
        snapshot = stream.name.partition("@")[2]
        name = self._target if "@" in self._target else f"{self._target}@{snapshot}"
        if str(guid_of(self._host, name)) != stream.guid:
            raise DamagedError(f"{name} was received with another guid")

    def abandon(self) -> None:
        """Kill the receiver before it sees an end; it keeps nothing."""
        self._process.destroy()


def check_receiver(
    host: Host, target: str, flags: Sequence[str], manifest: Manifest
) -> None:
    """Refuse a receive that cannot or must not happen, before anything is fetched.

    Raises:
        UsageError: the archive is no send stream, or the target exists.
        CommandError: zfs cannot be asked.
    """
    if manifest.stream is None:
        raise UsageError(
            f"{manifest.name} is no send stream",
            hint="use --output FILE",
        )
    if exists(host, target.partition("@")[0]) and "-F" not in flags:
        raise UsageError(
            f"{target} exists already",
            hint="choose a new name, or pass --force to let zfs receive "
            "roll it back (-F)",
        )
