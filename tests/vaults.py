"""Vaults made by the library, in memory, for tests of what a vault proves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING

from standfast.backup.init import Owner, Wanted, create_vault
from standfast.backup.minisign import SecretKey
from standfast.backup.opening import open_vault_identity
from standfast.backup.plan import plan_stdin
from standfast.backup.recipients import (
    X25519Identity,
)
from standfast.backup.restore import check_before, find, restore
from standfast.backup.send import Outcome, Sender, send_archive
from standfast.backup.state import COMMITTED, Sent
from standfast.backup.sums import NONE, Statement, format_sums
from standfast.backup.vault import Vault, open_vault
from standfast.backup.verify import Level, Verifier, verify
from standfast.clock import SystemClock
from standfast.errors import StandfastError
from standfast.testing.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from standfast.backup.stores import Store

SMALL = 64 * 1024


class BytesProducer:
    """Gives bytes, in pieces of at most ``step``."""

    def __init__(self, data: bytes, step: int = 1 << 20) -> None:
        self._left = memoryview(data)
        self._step = step

    def read(self, room: memoryview) -> int:
        count = min(len(self._left), len(room), self._step)
        room[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def stop(self) -> None:
        self._left = memoryview(b"")

    def finish(self) -> None:
        """Nothing failed."""


class ListSink:
    """Keeps what is restored."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.ended = ""

    def write(self, data: memoryview) -> None:
        self.parts.append(bytes(data))

    def end_part(self) -> None:
        """Parts follow each other."""

    def finish(self) -> None:
        self.ended = "finished"

    def abandon(self) -> None:
        self.ended = "abandoned"

    def data(self) -> bytes:
        return b"".join(self.parts)


def nothing(*_: object) -> None:
    """Take progress and say nothing."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a verification said.

    Attributes:
        status: the exit status.
        text: every finding, or the error that ended it, a line each.
    """

    status: int
    text: str


@dataclasses.dataclass
class Owned:
    """A vault, its owner's key, and the memory of the machine that made it."""

    store: Store
    base: Path
    owner: X25519Identity

    def vault(self) -> Vault:
        return open_vault(self.store, self.base, SystemClock())

    def signer(self) -> str:
        key = self.vault().state.signer_key()
        assert key is not None
        return key.public.text

    def send(self, name: str, data: bytes, level: int = 3) -> Outcome:
        return send_to(self.vault(), name, data, level)

    def restored(self, wanted: str, sink: ListSink | None = None) -> bytes:
        return restore_from(self.vault(), wanted, self.owner, sink or ListSink())


def send_to(vault: Vault, name: str, data: bytes, level: int = 3) -> Outcome:
    """Send bytes into a vault."""
    sender = Sender(
        clock=SystemClock(),
        host_name="test",
        versions={},
        level=level,
        progress=nothing,
    )
    return send_archive(vault, plan_stdin(name), BytesProducer(data), sender)


def restore_from(
    vault: Vault, wanted: str, owner: X25519Identity, sink: ListSink
) -> bytes:
    """Do what the command does: check everything, then stream."""
    identity = open_vault_identity(vault, [owner])
    found = find(vault, wanted, vault.trust([]), identity)
    check_before(vault, found, nothing)
    restore(vault, found, identity, sink, nothing)
    return sink.data()


def make_owned(store: Store, base: Path, segment_size: int = SMALL) -> Owned:
    """Make a vault with one owner."""
    owner = X25519Identity.generate()
    wanted = Wanted([Owner(owner.recipient, owner.recipient.text)], segment_size, "t")
    create_vault(store, wanted, base, SystemClock())
    return Owned(store, base, owner)


def verified(
    store: Store, base: Path, signers: tuple[str, ...] = (), level: Level = Level.HASH
) -> Verdict:
    """Verify as the command does, and keep its words."""
    try:
        vault = open_vault(store, base, SystemClock())
        verifier = Verifier(level, store.digests, None, nothing)
        report = verify(vault, vault.trust(signers), [], verifier)
    except StandfastError as error:
        return Verdict(int(error.status), error.message)
    lines = [f"{f.grade}: {f.object}: {f.text}" for f in report.all_findings()]
    return Verdict(int(report.status()), "\n".join(lines))


def in_memory(objects: Mapping[str, bytes], address: str = "memory") -> MemoryStore:
    """Return a store that holds copies of objects."""
    store = MemoryStore(address)
    store.create()
    store.objects = dict(objects)
    return store


def digest(data: bytes) -> str:
    """Return SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def many_archives(
    folder: Path, state: Path, vault: str, count: int, datasets: int
) -> dict[str, str]:
    """Fill a vault with tiny signed archives in chains, faster than sending would.

    Returns the newest archive of each dataset.
    """
    key = SecretKey.parse((state / "signer.key").read_text())
    previous = NONE
    newest: dict[str, str] = {}
    lines: list[str] = []
    for number in range(count):
        archive = f"{number:032x}"
        place = folder / "archives" / archive
        place.mkdir(parents=True)
        objects = {
            name: f"{name} {number}".encode()
            for name in ("00000000.zst.age", "manifest.json.age")
        }
        for name, data in objects.items():
            (place / name).write_bytes(data)
        sums = format_sums({name: digest(data) for name, data in objects.items()})
        dataset = f"tank/{number % datasets}"
        statement = Statement(
            kind="archive",
            vault=vault,
            archive=archive,
            objects=len(objects),
            size=sum(len(data) for data in objects.values()),
            sequence=number + 1,
            previous=previous,
            time=1_700_000_000 + number,
            base=newest.get(dataset, NONE),
            line=f"{number % datasets:032x}",
        )
        previous = digest(sums)
        newest[dataset] = archive
        (place / "SHA256SUMS").write_bytes(sums)
        (place / "SHA256SUMS.minisig").write_text(key.sign(sums, statement.text()))
        sent = Sent(
            archive, number + 1, COMMITTED, previous, f"{dataset}@{number}", number
        )
        lines.append(json.dumps(vars(sent)))
    (state / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    return newest
