"""The verifications and audits that are due by the configuration, within a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.backup.audit import audit
from standfast.backup.proof import COMMITTED, LEFTOVER, REFUSED
from standfast.backup.proven import read_whole, remember_report
from standfast.backup.run_report import Verified
from standfast.backup.schedule import judge_due
from standfast.backup.verify import Level, Verifier, verify
from standfast.clock import local_time
from standfast.errors import StandfastError

if TYPE_CHECKING:
    import random  # noqa: TID251 - the type of an argument
    from collections.abc import Iterable

    from standfast.backup.config import Place
    from standfast.backup.run import Places, Tools
    from standfast.backup.vault import Vault
    from standfast.backup.verify import Report

AUDITED = "audited"


def verify_due(wanted: Iterable[Place], tools: Tools, places: Places) -> list[Verified]:
    """Verify the vaults whose turn it is, at level ``hash``; see VaultSection.

    A vault that cannot be reached is passed over in silence: that it could not be
    served was told by its jobs.
    """
    found: list[Verified] = []
    for place in wanted:
        try:
            vault = places.get(place)
        except StandfastError:
            continue
        try:
            if _is_due(place, vault, tools):
                found.append(_verify(place, vault, tools))
        except StandfastError as error:
            found.append(Verified(place.name, False, error.message, error.status))
    return found


def audit_due(
    wanted: Iterable[Place], tools: Tools, places: Places, chance: random.Random
) -> list[Verified]:
    """Have the far ends of vaults prove what they hold; see VaultSection.

    Args:
        wanted: the vaults that were due in this run.
        tools: those of the run.
        places: the run's vaults.
        chance: chooses what is asked.
    """
    found: list[Verified] = []
    for place in wanted:
        try:
            vault = places.get(place)
        except StandfastError:
            continue
        if not place.audit or tools.dry_run:
            continue
        try:
            report = audit(vault, vault.trust([]), place.audit, chance)
        except StandfastError as error:
            found.append(_failed_audit(place, error))
            continue
        bad = [f for f in report.findings if f.grade != LEFTOVER]
        text = f"{len(report.asked)} objects are there, {len(report.left)} audits left"
        if bad:
            text = f"{bad[0].object}: {bad[0].text}"
        status = report.status()
        found.append(Verified(place.name, not bad, text, status, AUDITED))
    return found


def _failed_audit(place: Place, error: StandfastError) -> Verified:
    return Verified(place.name, False, error.message, error.status, AUDITED)


def _is_due(place: Place, vault: Vault, tools: Tools) -> bool:
    if place.verify is None or tools.dry_run:
        return False
    last = max(read_whole(vault.state).values(), default=0)
    if not last:
        return True
    now = local_time(tools.clock.now())
    return judge_due(place.verify, local_time(last), now).due


def _verify(place: Place, vault: Vault, tools: Tools) -> Verified:
    progress = tools.progress(f"verifying {place.name}")
    with progress.shown() as add:
        verifier = Verifier(Level.HASH, vault.store.digests, None, add, progress.expect)
        report = verify(vault, vault.trust([]), [], verifier)
    remember_report(
        vault, report, tools.clock.now(), whole=True, read_here=vault.store.near
    )
    return Verified(place.name, report.status() == 0, _text(report), report.status())


def _text(report: Report) -> str:
    standing = [checked.archive.standing for checked in report.checked]
    good = standing.count(COMMITTED)
    text = f"{good} of {good + standing.count(REFUSED)} archives are whole"
    findings = [f for f in report.all_findings() if f.grade != LEFTOVER]
    if findings:
        text += f"; {findings[0].object}: {findings[0].text}"
    if len(findings) > 1:
        text += f"; and {len(findings) - 1} more"
    return text
