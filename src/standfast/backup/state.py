"""What this machine remembers of each vault, since the vault itself is not trusted.

One folder a vault, by its id, so that the memory holds wherever the vault is moved
or copied: ``$XDG_STATE_HOME/standfast/vaults/ID/`` (default ``~/.local/state``):

``record.json``   the pinned recipient, the trusted signers, addresses seen
``signer.key``    this machine's signing key for the vault, minisign format
``pruner.key``    its key for stating removals, if it prunes
``seen.json``     what it has seen there, if it prunes; see ``memory``
``ledger.jsonl``  one line for each step of each archive sent from here
``signatures``    digests of the signatures that were verified here
``sending/ID``    locked while this machine sends archive ID; see ``underway``
``lock``          locked while the record or the ledger changes

Locks are flock(2): they end with their process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from standfast.backup import underway
from standfast.backup.folders import drop_cut_line, make_folders, sync_folder
from standfast.backup.minisign import SecretKey
from standfast.backup.model import decode, encode
from standfast.errors import DamagedError, LockedError, StandfastError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from standfast.backup.underway import Notes, Resumable
    from standfast.clock import Clock

LOCK_SECONDS = 10.0
LOCK_POLL_SECONDS = 0.05
RESERVED = "reserved"
COMMITTED = "committed"
REMOVED = "removed"
_KEY_FILES = {"sender": "signer.key", "pruner": "pruner.key", "owner": "owner.key"}


SENDER = "sender"
PRUNER = "pruner"
OWNER = "owner"
ROLES = (SENDER, PRUNER, OWNER)


class Revoked(msgspec.Struct, frozen=True, kw_only=True):
    """What still counts of a key that counts no more.

    Attributes:
        after: the last number that counts; 0 if nothing does.
        digest: of what was signed with that number: an archive's sums, or a removal.
        archives: a sender's archives that were seen before: id -> digest of the sums.
    """

    after: int
    digest: str
    archives: dict[str, str]


class Signer(msgspec.Struct, frozen=True, kw_only=True):
    """A signing key that this machine trusts, and why.

    Attributes:
        key: the key, ``RW...``.
        name: what a person calls it.
        role: ``sender`` may add archives, ``pruner`` may state removals, ``owner`` may
            sign the vault's own files; senders may as well.
        replaces: the key that the same machine had before.
        revoked: None while it counts.
    """

    key: str
    name: str
    role: str = SENDER
    replaces: str = ""
    revoked: Revoked | None = None


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """The vault's own files as they were last seen: number and digest of the sums."""

    number: int
    sums: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """``record.json``: what is pinned.

    Attributes:
        format: 1.
        vault: the vault's id.
        recipient: the only recipient that this machine seals to for this vault.
        segment_size: plaintext bytes of a segment.
        owners: the owner's recipients, where they are known here.
        signers: keys whose signatures count.
        addresses: where the vault was seen, the latest last.
        former: the recipients before this one, whose archives are still opened.
        root: the newest of the vault's own files that this machine has seen.
    """

    format: int
    vault: str
    recipient: str
    segment_size: int
    owners: list[str]
    signers: list[Signer]
    addresses: list[str]
    former: list[str] = []
    root: Root | None = None


@dataclass(frozen=True)
class Sent:
    """The last known step of an archive that was sent from here.

    Attributes:
        archive: its id.
        sequence: its number among this signer's.
        state: RESERVED, COMMITTED or REMOVED.
        sums: SHA-256 of its ``SHA256SUMS``.
        name: as in the manifest.
        time: the commit's, Unix seconds.
        guid: of the snapshot it ends with, decimal; empty for other bytes.
        dataset: the dataset's GUID, decimal; empty for other bytes.
        kind: letters: ``R`` a tree, ``w`` raw, ``L`` large blocks.
    """

    archive: str
    sequence: int
    state: str
    sums: str
    name: str
    time: int
    guid: str = ""
    dataset: str = ""
    kind: str = ""


@dataclass
class Ledger:
    """All archives that were sent from here, by id, in order of sequence."""

    sent: dict[str, Sent] = field(default_factory=dict)

    @property
    def last_sequence(self) -> int:
        """The highest sequence number ever reserved; 0 at first."""
        return max((s.sequence for s in self.sent.values()), default=0)

    @functools.cached_property
    def by_dataset(self) -> Mapping[str, Sequence[Sent]]:
        """What was sent of each dataset, by its GUID in decimal, the last first."""
        found: dict[str, list[Sent]] = {}
        for sent in sorted(self.sent.values(), key=lambda s: -s.sequence):
            if sent.guid:
                found.setdefault(sent.dataset, []).append(sent)
        return found

    def last_committed(self) -> Sent | None:
        """Return the committed archive with the highest sequence number."""
        done = [s for s in self.sent.values() if s.state == COMMITTED]
        return max(done, key=lambda s: s.sequence, default=None)


class VaultState:
    """This machine's memory of one vault."""

    def __init__(self, base: Path, vault: str, clock: Clock) -> None:
        self.folder = base / "vaults" / vault
        self.vault = vault
        self._clock = clock

    def record(self) -> Record | None:
        """Return what is pinned, or None if this machine does not know the vault.

        Raises:
            DamagedError: the record cannot be read.
        """
        path = self.folder / "record.json"
        try:
            return decode(path.read_bytes(), Record, str(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StandfastError(f"cannot read {path}: {error.strerror}") from None

    def save_record(self, record: Record) -> None:
        """Write the record, whole or not at all."""
        with self.locked():
            write_private(self.folder / "record.json", encode(record))

    def signer_key(self, role: str = SENDER) -> SecretKey | None:
        """Return this machine's signing key for the vault, if it has one."""
        path = self.folder / _KEY_FILES[role]
        try:
            return SecretKey.parse(path.read_text())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StandfastError(f"cannot read {path}: {error.strerror}") from None

    def make_signer_key(self, role: str = SENDER) -> SecretKey:
        """Return the signing key, made now unless there is one."""
        with self.locked():
            key = self.signer_key(role)
            if key is None:
                key = SecretKey.generate()
                path = self.folder / _KEY_FILES[role]
                write_private(path, key.to_text().encode())
            return key

    def ledger(self) -> Ledger:
        """Return what was sent from here.

        A line cut by a power failure can only be the last one; what it would have
        said had not been relied on yet.

        Raises:
            DamagedError: another line cannot be read.
        """
        path = self.folder / "ledger.jsonl"
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return Ledger()
        except OSError as error:
            raise StandfastError(f"cannot read {path}: {error.strerror}") from None
        ledger = Ledger()
        for number, line in enumerate(lines[:-1], 1):
            try:
                sent = Sent(**json.loads(line))
            except (ValueError, TypeError):
                raise DamagedError(f"{path} is damaged in line {number}") from None
            ledger.sent[sent.archive] = sent
        return ledger

    def note(self, sent: Sent) -> None:
        """Add a step to the ledger, on the disk before this returns."""
        line = json.dumps(vars(sent), sort_keys=True).encode() + b"\n"
        path = self.folder / "ledger.jsonl"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            drop_cut_line(fd)
            os.write(fd, line)
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_folder(self.folder)

    def verified_signatures(self) -> set[bytes]:
        """Return the digests of what was verified before; see proof.signed_comment.

        They may save work and no more: a file that cannot be read is as good as none.
        """
        try:
            data = (self.folder / "signatures").read_bytes()
        except OSError:
            return set()
        size = hashlib.sha256().digest_size
        return {data[i : i + size] for i in range(0, len(data), size)}

    def save_verified_signatures(self, digests: Iterable[bytes]) -> None:
        """Remember them, or do without."""
        with contextlib.suppress(StandfastError):
            write_private(self.folder / "signatures", b"".join(sorted(digests)))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the vault's memory against other processes of this machine.

        Raises:
            LockedError: another process held it for ten seconds.
        """
        private_folder(self.folder)
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            deadline = self._clock.monotonic() + LOCK_SECONDS
            while not _try_lock(fd):
                if self._clock.monotonic() > deadline:
                    raise LockedError(
                        f"another standfast holds {self.folder / 'lock'}",
                        hint="wait for it to end",
                    )
                self._clock.sleep(LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def pruning(self) -> Iterator[None]:
        """Be the only prune of this vault on this machine.

        Raises:
            LockedError: another one runs.
        """
        private_folder(self.folder)
        fd = os.open(self.folder / "pruning", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _try_lock(fd):
                raise LockedError(
                    "another prune of this vault is at work here",
                    hint="wait for it to end",
                )
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def sending(self, archive: str) -> Iterator[Notes]:
        """Mark an archive as being sent by this live process.

        The mark outlives a send that fails, as it does one that is killed: it is
        how ``clean`` knows that what lies there is ours and dead, and how a later
        run goes on.
        """
        folder = self.folder / "sending"
        private_folder(folder)
        with underway.opened(folder / archive) as opened:
            yield opened

    def resumable(self) -> list[Resumable]:
        """Return the sends begun here that a later run can go on with.

        Also those whose sender is at work, which is for the caller to tell apart.
        """
        with contextlib.suppress(FileNotFoundError):
            paths = sorted((self.folder / "sending").iterdir())
            found = (underway.read(path) for path in paths)
            return [one for one in found if one is not None]
        return []

    def give_up(self, archive: str) -> None:
        """Let nothing go on from what a dead sender left; ``clean`` may take it."""
        underway.give_up(self.folder / "sending" / archive)

    def started(self) -> dict[str, bool]:
        """Return archive id -> whether its sender still lives, for all begun here.

        Those that ended well have left no mark.
        """
        marks: dict[str, bool] = {}
        with contextlib.suppress(FileNotFoundError):
            for path in (self.folder / "sending").iterdir():
                marks[path.name] = _is_locked(path)
        return marks

    def forget_started(self, archive: str) -> None:
        """Remove the mark of a dead sender."""
        (self.folder / "sending" / archive).unlink(missing_ok=True)


def known_at(base: Path, address: str, clock: Clock) -> Record | None:
    """Return the record of the vault last seen at an address, if any."""
    for record in all_records(base, clock):
        if record.addresses and record.addresses[-1] == address:
            return record
    return None


def all_records(base: Path, clock: Clock) -> list[Record]:
    """Return every vault that this machine knows."""
    try:
        names = sorted(path.name for path in (base / "vaults").iterdir())
    except FileNotFoundError:
        return []
    records = (VaultState(base, name, clock).record() for name in names)
    return [record for record in records if record is not None]


def private_folder(path: Path) -> None:
    """Make a folder and those above it, for this user alone.

    Raises:
        StandfastError: it cannot be made.
    """
    try:
        make_folders(path)
    except OSError as error:
        raise StandfastError(f"cannot make {path}: {error.strerror}") from None


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner reads, whole or not at all.

    Raises:
        StandfastError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        part.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise StandfastError(f"cannot write {path}: {error.strerror}") from None


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(fd)
    finally:
        os.close(fd)


def plain(value: msgspec.Struct) -> Any:  # noqa: ANN401 - JSON is any
    """Return a document as plain lists and mappings."""
    return msgspec.to_builtins(value)
