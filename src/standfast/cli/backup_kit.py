"""``standfast backup kit``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from standfast.backup.kit import KitSigner, kit_lines
from standfast.backup.recovery import kit_text
from standfast.backup.signers import standing
from standfast.backup.state import OWNER, SENDER
from standfast.backup.verify import read_root, remember_root
from standfast.clock import utc_text

if TYPE_CHECKING:
    from standfast.cli.session import Session


def kit(session: Session) -> int:
    """Print the page that an owner keeps away from the vault."""
    vault = session.vault()
    record = vault.record
    owners = record.owners if record else []
    trust = session.trust(vault)
    survey, _ = vault.survey(trust)
    known = record.signers if record else []
    heads = [KitSigner(signer=s, last=standing(s, survey).last) for s in known]
    signers = [s.key for s in known if s.role == SENDER and s.revoked is None]
    root, trouble = read_root(vault, trust)
    if record is not None:
        remember_root(vault, root)
    document = {
        "vault": vault.info.vault,
        "address": vault.address,
        "recipient": record.recipient if record else vault.info.recipient,
        "owners": owners,
        "signers": signers,
        "known_here": record is not None,
        "heads": msgspec.to_builtins(heads),
        "root": msgspec.to_builtins(root),
        "time": int(session.clock.now()),
    }
    lines = kit_lines(heads, root, utc_text(session.clock.now()))
    counting = [s.key for s in known if s.role == OWNER and s.revoked is None]
    page = (vault.info, vault.address, owners, [*signers, *counting], lines)
    text = kit_text(*page)
    if record is None:
        session.console.note(
            "this machine did not make that vault: what is printed is the vault's "
            "own word; print the kit where the vault was made"
        )
    for finding in [*survey.alarms, *trouble] if record is not None else []:
        session.console.note(f"{finding.grade}: {finding.object}: {finding.text}")
    session.console.result(document, text.rstrip("\n"))
    return 0
