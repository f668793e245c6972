"""A vault as this machine sees it: its place, its document, what is pinned of it."""

from __future__ import annotations

import dataclasses
import hashlib
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
    SUMS,
    VAULT_DOCUMENT,
    VaultInfo,
    check_info,
    decode,
    encode,
)
from standfast.backup.proof import COMMITTED as COMMITTED_STANDING
from standfast.backup.proof import (
    Survey,
    Trust,
    check_signature,
    signed_names,
    survey,
)
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
from standfast.backup.sums import parse_sums
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

    def trust(
        self,
        signers: Sequence[str],
        pruners: Sequence[str] = (),
        kit: Sequence[Signer] = (),
    ) -> Trust:
        """Return whose signatures count.

        Args:
            signers: senders' keys given by the user, as text; they alone count if
                there are any, otherwise those on record.
            pruners: pruners' keys given by the user; likewise.
            kit: what a recovery kit says, for a machine that has no record.
        """
        known = list(kit) if self.record is None else self.record.signers

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


def open_vault(
    store: Store,
    base: Path,
    clock: Clock,
    recipient: str | None = None,
    *,
    opened: bool = False,
) -> Vault:
    """Return the vault at a store's address.

    Args:
        store: where it lies.
        base: this machine's memory.
        clock: the time.
        recipient: the vault recipient as the owner says that it is now; it is pinned
            instead of another one.
        opened: the vault will be opened with a key, which shows better than its
            document whether it is the right one; another recipient there, such as an
            interrupted change of owners leaves, then hinders no reader.

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
    if record is not None and not (opened and info.segment_size == record.segment_size):
        record = _reconcile(store, state, info, record, recipient)
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
    return with_own_key(know(vault, recipient, []), SENDER)


def know(vault: Vault, recipient: str, signers: Sequence[Signer]) -> Vault:
    """Make a vault known to a machine that does not send, by the owner's word.

    Raises:
        NotTrustedError: the vault names another recipient than the owner does.
    """
    _compare_recipient(vault, recipient)
    record = Record(
        format=FORMAT,
        vault=vault.info.vault,
        recipient=recipient,
        segment_size=vault.info.segment_size,
        owners=[],
        signers=list(signers),
        addresses=[vault.address],
    )
    vault.state.save_record(record)
    return replace(vault, record=record)


def with_own_key(vault: Vault, role: str) -> Vault:
    """Return a known vault in which this machine trusts its own key for a role.

    The key is made unless there is one.

    Raises:
        NotTrustedError: the machine does not know the vault.
    """
    if vault.record is None:
        raise NotTrustedError(
            f"this machine does not know the vault at {vault.address}",
            hint="`standfast backup signer add VAULT --kit FILE` takes what it must "
            "know from the recovery kit",
        )
    key = vault.state.make_signer_key(role).public.text
    if any(signer.key == key for signer in vault.record.signers):
        return vault
    own = Signer(key=key, name="this machine", role=role)
    signers = [*vault.record.signers, own]
    record = msgspec.structs.replace(vault.record, signers=signers)
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
    if vault.info.recipient != vault.record.recipient:
        raise NotTrustedError(
            f"{vault.address} asks to seal to {vault.info.recipient}, and no owner's "
            "key on record here says so",
            hint="if the owner has made a new vault identity, pass --recipient from "
            "the new kit",
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


def _compare_recipient(vault: Vault, recipient: str) -> None:
    if recipient != vault.info.recipient:
        raise NotTrustedError(
            f"{vault.address} asks to seal to {vault.info.recipient}, not to the "
            f"recipient given",
            hint="compare both with the recovery kit",
        )


def _reconcile(
    store: Store,
    state: VaultState,
    info: VaultInfo,
    record: Record,
    recipient: str | None,
) -> Record:
    """Return the record that goes with what the vault's document says now.

    Another recipient is pinned if the owner gives it here, or has signed it with a
    key that is on record as an owner's. If a sender's key has signed it, the vault
    can be read, but nothing is sealed to it: see ``vault_recipient``.

    Raises:
        DamagedError: it was altered.
    """
    if info.segment_size == record.segment_size:
        if info.recipient == record.recipient:
            return record
        if recipient == info.recipient:
            return _repinned(state, info, record)
        role = _who_signed(store, info, record)
        if role == OWNER:
            return _repinned(state, info, record)
        if role == SENDER:
            return record
    raise DamagedError(
        f"{VAULT_DOCUMENT} was altered: it does not say what is pinned here",
        hint="the vault's host, or someone who can write there, changed it; if the "
        "owner has made a new vault identity, pass --recipient from the new kit",
    )


def _repinned(state: VaultState, info: VaultInfo, record: Record) -> Record:
    former = [r for r in record.former if r != info.recipient]
    record = msgspec.structs.replace(
        record, recipient=info.recipient, former=[*former, record.recipient]
    )
    state.save_record(record)
    return record


def _who_signed(store: Store, info: VaultInfo, record: Record) -> str:
    """Return the role of the key that signed a newer document than was seen here."""
    small = store.get_small([SUMS, SIGNATURE], LARGEST_SUMS)
    counting = [s for s in record.signers if s.revoked is None and s.role != PRUNER]
    roles = {PublicKey.parse(s.key): s.role for s in counting}
    try:
        statement, signer = check_signature(
            small[SUMS], small[SIGNATURE], frozenset(roles), set()
        )
        sums = parse_sums(small[SUMS], SUMS)
    except (KeyError, DamagedError, NotTrustedError):
        return ""
    newer = statement.sequence > (record.root.number if record.root else 0)
    digest = hashlib.sha256(encode(info)).hexdigest()
    ours = statement.kind == "vault" and statement.vault == info.vault
    if newer and ours and sums.get(VAULT_DOCUMENT) == digest:
        return roles[PublicKey.parse(signer)]
    return ""


def _remember_address(vault: Vault, record: Record) -> Vault:
    if record.addresses[-1:] == [vault.address]:
        return vault
    others = [a for a in record.addresses if a != vault.address]
    record = msgspec.structs.replace(record, addresses=[*others, vault.address])
    vault.state.save_record(record)
    return replace(vault, record=record)
