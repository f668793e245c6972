"""What a recovery kit remembers of a vault, to be held against it later. Pure.

The kit lies offline, so no host can alter it. It names the keys that count and, for
each, the number and digest of the last thing that it had signed. A vault from which
that is gone was rolled back. The page can be read by people and by ``read_kit``; the
JSON form of ``backup kit`` holds the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from standfast.backup.model import SUMS, is_archive_id
from standfast.backup.proof import COMMITTED, DAMAGE, Finding
from standfast.backup.removals import Head
from standfast.backup.state import PRUNER, Revoked, Root, Signer
from standfast.backup.sums import NONE
from standfast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.backup.proof import Survey

_VAULT = re.compile(r"^Vault: +([0-9a-f]{32})$", re.MULTILINE)
_RECIPIENT = re.compile(r"^Recipient: +(age1\S+)$", re.MULTILINE)
_ROOT = re.compile(
    r"^    root\n        number (\d+), digest ([0-9a-f]{64})$", re.MULTILINE
)
_SIGNER = re.compile(
    r"^    (revoked )?(sender|pruner|owner) (RW\S+)\n"
    r"        number (\d+), digest ([0-9a-f]{64}|none)"
    r"((?:\n        archive [0-9a-f]{32} [0-9a-f]{64})*)$",
    re.MULTILINE,
)


class KitSigner(msgspec.Struct, frozen=True, kw_only=True):
    """A key of the kit.

    Attributes:
        signer: the key, its role, and what still counts if it is revoked.
        last: the last thing that it had signed; number 0 if nothing.
    """

    signer: Signer
    last: Head


@dataclass(frozen=True)
class Kit:
    """What a kit says of a vault.

    Attributes:
        vault: its id.
        recipient: whom senders seal to.
        signers: the keys.
        root: the vault's own files.
    """

    vault: str
    recipient: str
    signers: list[KitSigner]
    root: Root | None

    def trusted(self) -> list[Signer]:
        """Return the keys as a machine without a record takes them."""
        return [one.signer for one in self.signers]


def kit_lines(signers: Sequence[KitSigner], root: Root | None, time: str) -> list[str]:
    """Return the part of the page that ``read_kit`` reads.

    Args:
        signers: the keys.
        root: the vault's own files; None where they were not good.
        time: when this was so, for people.
    """
    lines = [f"As of {time} the last thing signed by each was:"]
    for one in signers:
        revoked = one.signer.revoked
        prefix = "revoked " if revoked is not None else ""
        lines.append(f"    {prefix}{one.signer.role} {one.signer.key}")
        last = one.last
        if revoked is not None:
            last = Head(revoked.after, revoked.digest)
        lines.append(f"        number {last.number}, digest {last.digest}")
        if revoked is not None:
            archives = sorted(revoked.archives.items())
            lines += [f"        archive {name} {sums}" for name, sums in archives]
    if root is not None:
        lines += ["    root", f"        number {root.number}, digest {root.sums}"]
    return lines


def read_kit(text: str, source: str) -> Kit:
    """Return what a kit says: the page, or its JSON form.

    Raises:
        UsageError: it is no kit, or one of a release that remembered nothing.
    """
    text = text.replace("\r\n", "\n")
    kit = _from_json(text) if text.lstrip().startswith("{") else _from_page(text)
    if kit is None:
        raise UsageError(
            f"not a recovery kit that can be compared: {source}",
            hint="`standfast backup kit VAULT > FILE` writes one",
        )
    return kit


def compare_kit(kit: Kit, survey: Survey, root: Root | None) -> list[Finding]:
    """Return what a vault no longer holds of what the kit remembers."""
    there: dict[str, set[tuple[int, str]]] = {}
    for archive in survey.archives:
        if archive.standing == COMMITTED and archive.statement is not None:
            signed = (archive.statement.sequence, archive.sums_digest)
            there.setdefault(archive.signer, set()).add(signed)
    if survey.removals is not None:
        for key, digests in survey.removals.digests.items():
            there.setdefault(key, set()).update(digests.items())
        for stated in survey.removals.gone.values():
            for gone in stated:
                signed = (gone.sequence, gone.sums)
                there.setdefault(gone.signer, set()).add(signed)
    findings: list[Finding] = []
    for one in kit.signers:
        last = one.last
        if last.number and (last.number, last.digest) not in there.get(
            one.signer.key, set()
        ):
            what = "removal" if one.signer.role == PRUNER else "archive"
            text = (
                f"rolled back: {what} number {last.number} of {one.signer.key}, which "
                "the kit remembers, is gone"
            )
            findings.append(Finding("vault", DAMAGE, text))
    return findings + _compare_root(kit.root, root)


def _compare_root(kept: Root | None, root: Root | None) -> list[Finding]:
    if kept is None or root is None or kept == root or root.number > kept.number:
        return []
    text = f"rolled back: number {root.number}, the kit remembers {kept.number}"
    if root.number == kept.number:
        text = f"not what the kit remembers as number {kept.number}"
    return [Finding(SUMS, DAMAGE, text)]


def _from_page(text: str) -> Kit | None:
    vault, recipient = _VAULT.search(text), _RECIPIENT.search(text)
    if vault is None or recipient is None or "\nAs of " not in text:
        return None
    signers = [_signer(match) for match in _SIGNER.finditer(text)]
    root = _ROOT.search(text)
    return Kit(
        vault=vault.group(1),
        recipient=recipient.group(1),
        signers=signers,
        root=Root(number=int(root.group(1)), sums=root.group(2)) if root else None,
    )


def _signer(match: re.Match[str]) -> KitSigner:
    revoked, role, key, number, digest, archives = match.groups()
    last = Head(int(number), digest)
    ended = None
    if revoked:
        words = [line.split()[1:] for line in archives.strip().splitlines()]
        ended = Revoked(after=last.number, digest=digest, archives=dict(words))
        last = Head(0, NONE)
    signer = Signer(key=key, name="from the kit", role=role, revoked=ended)
    return KitSigner(signer=signer, last=last)


def _from_json(text: str) -> Kit | None:
    try:
        document: dict[str, Any] = json.loads(text)
        kit = Kit(
            vault=str(document["vault"]),
            recipient=str(document["recipient"]),
            signers=msgspec.convert(document["heads"], list[KitSigner]),
            root=msgspec.convert(document["root"], Root | None),
        )
    except (ValueError, KeyError, TypeError, msgspec.ValidationError):
        return None
    return kit if is_archive_id(kit.vault) else None
