"""A vault as this machine sees it: its place, its document, what is pinned of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from standfast.backup.keyfiles import parse_recipient
from standfast.backup.memory import read_seen
from standfast.backup.minisign import PublicKey
from standfast.backup.model import (
    FORMAT,
    LARGEST_DOCUMENT,
    LARGEST_SUMS,
    SIGNATURE,
    VAULT_DOCUMENT,
    VaultInfo,
    check_info,
    decode,
)
from standfast.backup.proof import COMMITTED as COMMITTED_STANDING
from standfast.backup.proof import Survey, Trust, signed_names, survey
from standfast.backup.recipients import (
    X25519Recipient,
)
from standfast.backup.removals import judge_removals, removal_names
from standfast.backup.state import (
    COMMITTED,
    OWNER,
    PRUNER,
    RESERVED,
    SENDER,
    Record,
    Signer,
    VaultState,
    all_records,
    known_at,
)
from standfast.errors import (
    DamagedError,
    NotFoundError,
    NotTrustedError,
    NoVaultError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from standfast.backup.stores import Entry, Store
    from standfast.clock import Clock


# So many signatures take longer to verify than a file takes to be written safely.
WORTH_SAVING = 100


@dataclass(frozen=True)
class Vault:
    """An opened vault.

    Attributes:
        store: where it lies.
        info: its document, checked against what is pinned.
        state: this machine's memory of it.
        record: what is pinned, or None on a machine that does not know it.
    """

    store: Store
    info: VaultInfo
    state: VaultState
    record: Record | None

    @property
    def address(self) -> str:
        """Where it lies, as the user writes it."""
        return self.store.address

    def trust(self, signers: Sequence[str], pruners: Sequence[str] = ()) -> Trust:
        """Return whose signatures count.

        Args:
            signers: senders' keys given by the user, as text; they alone count if
                there are any, otherwise those on record.
            pruners: pruners' keys given by the user; likewise.
        """
        known = self.record.signers if self.record is not None else []

        def keys(role: str, given: Sequence[str]) -> frozenset[PublicKey]:
            texts = list(given) or [s.key for s in known if s.role == role]
            return frozenset(PublicKey.parse(text) for text in texts)

        seen = read_seen(self.state)
        return Trust(
            vault=self.info.vault,
            keys=keys(SENDER, signers),
            ledger=self.state.ledger(),
            remembers=self.state.signer_key() is not None,
            verified=self.state.verified_signatures(),
            pruners=keys(PRUNER, pruners),
            owners=frozenset() if signers else keys(OWNER, ()),
            revoked={s.key: s.revoked for s in known if s.revoked is not None},
            seen=seen.as_sent(),
            seen_removals=seen.removals,
            root=self.record.root if self.record is not None else None,
        )

    def survey(self, trust: Trust) -> tuple[Survey, list[Entry]]:
        """List the vault and judge all that signatures and the listing can tell."""
        entries = self.store.entries()
        names = [*signed_names(entries), *removal_names(entries)]
        small = self.store.get_small(names, LARGEST_SUMS)
        before = len(trust.verified)
        removals = judge_removals(entries, small, trust)
        judged = survey(entries, small, trust, removals)
        if self.record is not None and len(trust.verified) >= before + WORTH_SAVING:
            self.state.save_verified_signatures(trust.verified)
        self._vouch(judged, trust)
        return judged, entries

    def _vouch(self, judged: Survey, trust: Trust) -> None:
        """Note as committed what a crash kept the ledger from learning of."""
        key = self.state.signer_key()
        own = None if key is None else key.public.text
        for archive in judged.archives:
            sent = trust.ledger.sent.get(archive.id)
            forgotten = sent is not None and sent.state == RESERVED
            signed = archive.signer == own
            if sent and forgotten and signed and archive.standing == COMMITTED_STANDING:
                with self.state.locked():
                    self.state.note(dataclasses.replace(sent, state=COMMITTED))


def open_vault(store: Store, base: Path, clock: Clock) -> Vault:
    """Return the vault at a store's address.

    Raises:
        NoVaultError: there is none.
        DamagedError: its document cannot be read, differs from what is pinned, or
            names an unknown vault where a known one was.
    """
    expected = known_at(base, store.address, clock)
    try:
        data = store.get(VAULT_DOCUMENT, LARGEST_DOCUMENT)
    except NotFoundError:
        raise NoVaultError(
            f"no vault at {store.address}: it has no {VAULT_DOCUMENT}",
            hint="`standfast backup init` makes one; is the disk mounted?",
        ) from None
    info = check_info(decode(data, VaultInfo, VAULT_DOCUMENT), VAULT_DOCUMENT)
    state = VaultState(base, info.vault, clock)
    record = state.record()
    if record is None and expected is not None:
        raise DamagedError(
            f"{VAULT_DOCUMENT} names vault {info.vault}, "
            f"but {expected.vault} was at {store.address}",
            hint="it was altered, or another vault was put there; if that was you, "
            f"remove {VaultState(base, expected.vault, clock).folder}",
        )
    if record is not None:
        _compare(info, record)
    vault = Vault(store, info, state, record)
    return vault if record is None else _remember_address(vault, record)


def check_finished(vault: Vault) -> None:
    """Refuse to send into a vault whose making was interrupted.

    Raises:
        DamagedError: its root was never signed, or the signature is gone.
    """
    try:
        vault.store.get(SIGNATURE, LARGEST_DOCUMENT)
    except NotFoundError:
        raise DamagedError(
            f"{vault.address} has no {SIGNATURE}: it was never finished, or altered",
            hint="if it holds nothing yet, `standfast backup init` makes it anew",
        ) from None


def pin(vault: Vault, recipient: str) -> Vault:
    """Make a vault known to this machine by what the owner says of it.

    This machine's own signing key is made and trusted here; other machines' keys
    are not, since the vault is no witness for them.

    Raises:
        NotTrustedError: the vault names another recipient than the owner does.
    """
    if recipient != vault.info.recipient:
        raise NotTrustedError(
            f"{vault.address} asks to seal to {vault.info.recipient}, not to the "
            f"recipient given",
            hint="compare both with the recovery kit",
        )
    key = vault.state.make_signer_key()
    record = Record(
        format=FORMAT,
        vault=vault.info.vault,
        recipient=recipient,
        segment_size=vault.info.segment_size,
        owners=[],
        signers=[Signer(key=key.public.text, name="this machine")],
        addresses=[vault.address],
    )
    vault.state.save_record(record)
    return replace(vault, record=record)


def vault_recipient(vault: Vault) -> X25519Recipient:
    """Return whom segments are sealed to: the pinned recipient, never the vault's.

    Raises:
        NotTrustedError: nothing is pinned here.
    """
    if vault.record is None:
        raise NotTrustedError(
            f"this machine does not know the vault at {vault.address}",
            hint="pass --recipient with the vault recipient from the recovery kit",
        )
    recipient = parse_recipient(vault.record.recipient)
    if not isinstance(recipient, X25519Recipient):
        raise UsageError(f"not a vault recipient: {vault.record.recipient}")
    return recipient


def ready_to_send(vault: Vault, recipient: str | None) -> Vault:
    """Return a vault with a recipient that this machine has reason to trust.

    Args:
        vault: as it was opened.
        recipient: the vault recipient as the owner says it; needed once on a machine
            that does not know the vault.

    Raises:
        UsageError: the vault's recipient is another one.
        NotTrustedError: nothing is pinned here.
        DamagedError: the vault was never finished.
    """
    if recipient is not None and vault.record is None:
        vault = pin(vault, recipient)
    if recipient not in {None, vault.info.recipient}:
        raise UsageError(f"this vault's recipient is {vault.info.recipient}")
    vault_recipient(vault)
    check_finished(vault)
    return vault


def forget_address(base: Path, address: str, clock: Clock) -> None:
    """Let no older vault be expected at an address where a new one is made."""
    for record in all_records(base, clock):
        if address in record.addresses:
            rest = [a for a in record.addresses if a != address]
            state = VaultState(base, record.vault, clock)
            state.save_record(msgspec.structs.replace(record, addresses=rest))


def _compare(info: VaultInfo, record: Record) -> None:
    pinned = (record.recipient, record.segment_size)
    if (info.recipient, info.segment_size) != pinned:
        raise DamagedError(
            f"{VAULT_DOCUMENT} was altered: it does not say what is pinned here",
            hint="the vault's host, or someone who can write there, changed it",
        )


def _remember_address(vault: Vault, record: Record) -> Vault:
    if record.addresses[-1:] == [vault.address]:
        return vault
    others = [a for a in record.addresses if a != vault.address]
    record = msgspec.structs.replace(record, addresses=[*others, vault.address])
    vault.state.save_record(record)
    return replace(vault, record=record)
