"""``standfast backup init``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.backup.init import Owner, Wanted, create_vault
from standfast.backup.keyfiles import (
    new_identity_file,
    parse_recipient,
    read_recipients,
)
from standfast.backup.model import LARGEST_SEGMENT, SMALLEST_SEGMENT
from standfast.backup.recipients import (
    PassphraseRecipient,
    X25519Identity,
)
from standfast.backup.secret_files import read_passphrase
from standfast.cli.session import host_name
from standfast.clock import utc_text
from standfast.errors import UsageError
from standfast.units import parse_size, size_text

if TYPE_CHECKING:
    from standfast.backup.vault import Vault
    from standfast.cli.session import Session


def init(session: Session) -> int:
    """Make a vault, and the owner's key if asked."""
    arguments = session.arguments
    size = _segment_size(arguments.segment_size)
    owners = given_owners(session, arguments.passphrase_file)
    store = session.store()
    if arguments.dry_run:
        session.console.result(
            {"vault": store.address, "owners": [o.text for o in owners]},
            f"would make a vault at {store.address} for:\n"
            + "\n".join(f"  {owner.text}" for owner in owners),
        )
        return 0
    if arguments.new_identity:
        owners.append(make_new_owner(session))
    wanted = Wanted(owners, size, host_name())
    vault = create_vault(store, wanted, session.base, session.clock)
    _report(session, vault)
    return 0


def given_owners(session: Session, passphrase_file: str | None) -> list[Owner]:
    """Return the owners that the command names, but for a key yet to be made.

    Args:
        session: the command.
        passphrase_file: where the owners' passphrase stands, if that is how.

    Raises:
        UsageError: there are none, or they cannot go together.
    """
    arguments = session.arguments
    recipients = [parse_recipient(text) for text in arguments.recipient]
    for name in arguments.recipients_file:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"cannot read recipients from {name}") from None
        recipients += read_recipients(text, name)
    owners = [Owner(recipient, recipient.text) for recipient in recipients]
    if passphrase_file:
        if owners or arguments.new_identity:
            raise UsageError(
                "a passphrase goes with no other recipient",
                hint="the age format allows it alone only",
            )
        secret = read_passphrase(passphrase_file)
        owners.append(Owner(PassphraseRecipient(secret), "a passphrase"))
    if not owners and not arguments.new_identity:
        raise UsageError(
            "who may open the vault?",
            hint="--new-identity FILE makes a key, --recipient takes one you have",
        )
    return owners


def make_new_owner(session: Session) -> Owner:
    """Make an age key, written to ``--new-identity``, and return its owner.

    Raises:
        UsageError: the file is there, or cannot be written.
    """
    path = Path(session.arguments.new_identity)
    identity = X25519Identity.generate()
    text = new_identity_file(identity, utc_text(session.clock.now()))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        raise UsageError(
            f"{path} exists already", hint="a key is never overwritten"
        ) from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Owner(identity.recipient, identity.recipient.text)


def _segment_size(text: str) -> int:
    size = parse_size(text)
    if not SMALLEST_SEGMENT <= size <= LARGEST_SEGMENT:
        raise UsageError(
            f"not a segment size: {text}",
            hint=f"from {size_text(SMALLEST_SEGMENT)} to {size_text(LARGEST_SEGMENT)}",
        )
    return size


def _report(session: Session, vault: Vault) -> None:
    record = vault.record
    assert record is not None
    document = {
        "vault": record.vault,
        "address": vault.address,
        "recipient": record.recipient,
        "owners": record.owners,
        "signer": record.signers[0].key,
        "new_identity": session.arguments.new_identity,
    }
    lines = [f"vault {record.vault} is ready at {vault.address}"]
    if session.arguments.new_identity:
        lines.append(f"its key is {session.arguments.new_identity}: keep it elsewhere")
    lines.append(f"next: standfast backup kit {vault.address}, print it")
    session.console.result(document, "\n".join(lines))
