"""Making a vault: its identity, its documents, and this machine's record of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.age import encrypt
from standfast.backup.keyfiles import new_identity_file
from standfast.backup.model import (
    FORMAT,
    IDENTITY_OBJECT,
    RECOVERY_TEXT,
    ROOT_OBJECTS,
    SIGNATURE,
    SUMS,
    VAULT_DOCUMENT,
    VaultInfo,
    encode,
    is_part,
)
from standfast.backup.recipients import (
    X25519Identity,
)
from standfast.backup.recovery import recovery_text
from standfast.backup.state import Record, Signer, VaultState
from standfast.backup.sums import NONE, Statement, format_sums
from standfast.backup.vault import Vault, forget_address
from standfast.clock import utc_text
from standfast.errors import AlreadyThereError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from standfast.backup.age import Recipient
    from standfast.backup.minisign import SecretKey
    from standfast.backup.stores import Store
    from standfast.clock import Clock


@dataclass(frozen=True)
class Owner:
    """Someone who may open the vault: a recipient and how it is shown."""

    recipient: Recipient
    text: str


@dataclass(frozen=True)
class Wanted:
    """What a new vault is to be.

    Attributes:
        owners: who opens it; at least one.
        segment_size: plaintext bytes of a segment.
        host: this machine's name, for the record.
    """

    owners: Sequence[Owner]
    segment_size: int
    host: str


def create_vault(store: Store, wanted: Wanted, base: Path, clock: Clock) -> Vault:
    """Make a vault and return it.

    The secret half of the vault identity exists in this process's memory only; it
    leaves it sealed to the owners. The root's signature is written last, so that a
    vault without it was never finished and may be made again.

    Raises:
        AlreadyThereError: something else lies at the address.
        StoreError: the store failed.
    """
    _make_place(store)
    identity = X25519Identity.generate()
    info = VaultInfo(
        format=FORMAT,
        vault=os.urandom(16).hex(),
        recipient=identity.recipient.text,
        segment_size=wanted.segment_size,
    )
    state = VaultState(base, info.vault, clock)
    key = state.make_signer_key()
    now = clock.now()
    opened = new_identity_file(identity, utc_text(now)).encode()
    objects = {
        IDENTITY_OBJECT: encrypt(opened, [o.recipient for o in wanted.owners]),
        RECOVERY_TEXT: recovery_text(info, [key.public.text]).encode(),
        VAULT_DOCUMENT: encode(info),
    }
    forget_address(base, store.address, clock)
    record = _record(store, info, wanted, key)
    state.save_record(record)
    _write(store, info, objects, key, int(now))
    return Vault(store, info, state, record)


def _record(store: Store, info: VaultInfo, wanted: Wanted, key: SecretKey) -> Record:
    """Return what this machine pins of the vault that it makes."""
    return Record(
        format=FORMAT,
        vault=info.vault,
        recipient=info.recipient,
        segment_size=info.segment_size,
        owners=[owner.text for owner in wanted.owners],
        signers=[Signer(key=key.public.text, name=wanted.host)],
        addresses=[store.address],
    )


def _write(
    store: Store, info: VaultInfo, objects: dict[str, bytes], key: SecretKey, now: int
) -> None:
    """Write the vault's own files, and when they are stable their signature."""
    sums = format_sums({n: hashlib.sha256(d).hexdigest() for n, d in objects.items()})
    statement = Statement(
        kind="vault",
        vault=info.vault,
        archive="",
        objects=len(objects),
        size=sum(map(len, objects.values())),
        sequence=0,
        previous=NONE,
        time=now,
    )
    for name, data in (*objects.items(), (SUMS, sums)):
        store.put(name, data)
    store.make_stable("")
    store.put(SIGNATURE, key.sign(sums, statement.text()).encode())
    store.make_stable("")


def _make_place(store: Store) -> None:
    """Make the place, or clear what an interrupted ``init`` left of itself."""
    try:
        store.create()
    except AlreadyThereError as error:
        with contextlib.suppress(NotFoundError):
            names = {entry.name for entry in store.entries()}
            ours = {*ROOT_OBJECTS, SUMS, *filter(is_part, names)}
            if names and names <= ours:
                for name in sorted(names):
                    store.delete(name)
                return
            if SIGNATURE in names or VAULT_DOCUMENT in names:
                raise AlreadyThereError(
                    f"there is a vault at {store.address} already"
                ) from None
        raise error from None
