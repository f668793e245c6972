"""Other owners, or a new vault identity: the vault's own files are written anew.

No archive is touched. Each file takes the place of the old one by itself, so that the
vault opens at every moment, with the old owner's key or with the new one's; the sums
and their signature come last. Between the first file and the last `verify` finds the
vault's own files altered, and says so; doing it again finishes it.

The signature carries a number, one higher each time. Machines remember the highest,
so that an old state that is put back is seen.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from standfast.backup.age import encrypt
from standfast.backup.keyfiles import new_identity_file
from standfast.backup.minisign import Signature
from standfast.backup.model import (
    IDENTITY_OBJECT,
    LARGEST_DOCUMENT,
    RECOVERY_TEXT,
    SIGNATURE,
    SUMS,
    VAULT_DOCUMENT,
    encode,
)
from standfast.backup.opening import open_vault_identity
from standfast.backup.recipients import X25519Identity
from standfast.backup.recovery import recovery_text
from standfast.backup.state import OWNER, PRUNER, SENDER, Root
from standfast.backup.sums import NONE, Statement, format_sums, parse_statement
from standfast.backup.vault import Vault, know, with_own_key
from standfast.clock import utc_text
from standfast.errors import NotFoundError, StandfastError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.backup.age import Identity
    from standfast.backup.init import Owner
    from standfast.backup.minisign import SecretKey
    from standfast.clock import Clock

# A number that nobody has vouched for is not believed beyond this.
HIGHEST_NUMBER = 1_000_000


@dataclass(frozen=True)
class Rewrapped:
    """What was done.

    Attributes:
        vault: the vault as it is now.
        number: of the vault's own files.
        signer: the key that signed them.
        role: its role.
    """

    vault: Vault
    number: int
    signer: str
    role: str


def rewrap(
    vault: Vault,
    identities: Sequence[Identity],
    owners: Sequence[Owner],
    clock: Clock,
    *,
    rotate: bool,
) -> Rewrapped:
    """Seal the vault identity to other owners.

    Args:
        vault: the vault.
        identities: what opens it now.
        owners: who is to open it from now on; nobody else will.
        clock: the time.
        rotate: make a new vault identity for what is sent from now on; the old ones
            stay beside it.

    Raises:
        NoIdentityError: none of the identities opens it.
        DamagedError: ``identity.age`` is not of this vault.
        StoreError: the store failed; do it again.
    """
    opened = open_vault_identity(vault, identities)
    keys = [X25519Identity(opened.secret), *opened.former]
    if rotate:
        keys.insert(0, X25519Identity.generate())
    vault, key, role = _signing_key(vault)
    info = msgspec.structs.replace(vault.info, recipient=keys[0].recipient.text)
    now = clock.now()
    text = "".join(new_identity_file(one, utc_text(now)) for one in keys)
    assert vault.record is not None
    counting = [s for s in vault.record.signers if s.revoked is None]
    signers = [s.key for s in counting if s.role != PRUNER]
    objects = {
        IDENTITY_OBJECT: encrypt(text.encode(), [o.recipient for o in owners]),
        RECOVERY_TEXT: recovery_text(info, signers).encode(),
        VAULT_DOCUMENT: encode(info),
    }
    root = _write(vault, objects, key, int(now))
    former = [k.recipient.text for k in reversed(keys[1:])]
    record = msgspec.structs.replace(
        vault.record,
        recipient=info.recipient,
        former=former,
        owners=[owner.text for owner in owners],
        root=root,
    )
    vault.state.save_record(record)
    done = Vault(vault.store, info, vault.state, record)
    return Rewrapped(done, root.number, key.public.text, role)


def _signing_key(vault: Vault) -> tuple[Vault, SecretKey, str]:
    """Return the key of this machine that signs the vault's own files.

    A sender's key is known to readers already. A machine that sends nothing, such as
    the owner's, makes a key for this alone. Who has opened the vault may make it
    known to his machine: that was proof enough that it is the right one.
    """
    if vault.record is None:
        vault = know(vault, vault.info.recipient, [])
    assert vault.record is not None
    own = vault.state.signer_key(SENDER)
    for signer in vault.record.signers:
        if own is not None and signer.key == own.public.text and not signer.revoked:
            return vault, own, SENDER
    vault = with_own_key(vault, OWNER)
    return vault, vault.state.make_signer_key(OWNER), OWNER


def _write(vault: Vault, objects: dict[str, bytes], key: SecretKey, now: int) -> Root:
    """Replace the files, the sums, and when all of it is stable the signature."""
    previous = NONE
    with contextlib.suppress(NotFoundError):
        old = vault.store.get(SUMS, LARGEST_DOCUMENT)
        previous = hashlib.sha256(old).hexdigest()
    sums = format_sums({n: hashlib.sha256(d).hexdigest() for n, d in objects.items()})
    statement = Statement(
        kind="vault",
        vault=vault.info.vault,
        archive="",
        objects=len(objects),
        size=sum(map(len, objects.values())),
        sequence=_last_number(vault) + 1,
        previous=previous,
        time=now,
    )
    # The identity first: it opens all that was sent and all that will be. A vault that
    # asks for a recipient whose identity nobody has would be the end of it.
    for name, data in (*objects.items(), (SUMS, sums)):
        vault.store.replace(name, data)
    vault.store.make_stable("")
    vault.store.replace(SIGNATURE, key.sign(sums, statement.text()).encode())
    vault.store.make_stable("")
    return Root(number=statement.sequence, sums=hashlib.sha256(sums).hexdigest())


def _last_number(vault: Vault) -> int:
    """Return the highest number that the vault's own files have had.

    What lies there may be half replaced, so its signature need not fit; a number is
    taken from it all the same, as one that is too high does no harm.
    """
    known = vault.record.root if vault.record is not None else None
    number = known.number if known is not None else 0
    with contextlib.suppress(StandfastError):
        text = vault.store.get(SIGNATURE, LARGEST_DOCUMENT)
        comment = Signature.parse(text).trusted_comment
        there = parse_statement(comment, SIGNATURE).sequence
        number = max(number, there if there < HIGHEST_NUMBER else 0)
    return number
