"""``standfast backup rewrap``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.backup.opening import open_vault_identity
from standfast.backup.rewrap import rewrap
from standfast.backup.state import OWNER
from standfast.cli.backup_init import given_owners, make_new_owner

if TYPE_CHECKING:
    from standfast.cli.session import Session


def rewrap_vault(session: Session) -> int:
    """Let other keys open a vault, and the old ones no more."""
    arguments = session.arguments
    owners = given_owners(session, arguments.new_passphrase_file)
    vault = session.vault()
    identities = session.identities()
    if arguments.dry_run:
        open_vault_identity(vault, identities)
        lines = [f"would let {vault.address} be opened by these, and no others:"]
        lines += [f"  {owner.text}" for owner in owners]
        if arguments.new_identity:
            lines.append(f"  a new key, written to {arguments.new_identity}")
        if arguments.rotate:
            lines.append("and would make a new vault identity")
        texts = [owner.text for owner in owners]
        session.console.result({"owners": texts, "dry_run": True}, "\n".join(lines))
        return 0
    if arguments.new_identity:
        open_vault_identity(vault, identities)
        owners.append(make_new_owner(session))
    done = rewrap(vault, identities, owners, session.clock, rotate=arguments.rotate)
    document = {
        "vault": vault.info.vault,
        "owners": [owner.text for owner in owners],
        "recipient": done.vault.info.recipient,
        "rotated": arguments.rotate,
        "root": done.number,
        "signer": done.signer,
        "dry_run": False,
    }
    lines = [f"{vault.address} is opened from now on by:"]
    lines += [f"  {owner.text}" for owner in owners]
    if arguments.rotate:
        lines.append(f"new archives are sealed to {done.vault.info.recipient}")
    lines.append(f"next: standfast backup kit {vault.address}, print it anew")
    session.console.result(document, "\n".join(lines))
    if done.role == OWNER:
        session.console.note(
            "other machines must trust the key that signed this: standfast backup "
            f"signer add VAULT {done.signer} --role owner"
        )
    if arguments.rotate and done.role != OWNER:
        session.console.note(
            "other sending machines seal to it when they are told so once: "
            f"send --recipient {done.vault.info.recipient}"
        )
    return 0
