"""Pruning: what a policy lets go is stated, signed, and then deleted.

The order is the safety. The removal is on stable storage and signed before the first
object goes, so that whatever is missing afterwards is either named by it or missed.
Of each archive the signature goes first: an archive is a backup exactly as long as
its signature is there. A run that died is finished by the next one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from standfast.backup.memory import observe, read_seen, save_seen
from standfast.backup.model import (
    FORMAT,
    REMOVAL_OBJECT,
    REMOVAL_SIGNATURE,
    SIGNATURE,
    archive_folder,
)
from standfast.backup.proof import COMMITTED, GONE, UNFINISHED
from standfast.backup.removals import (
    Head,
    Removal,
    Removed,
    digest_of,
    removal_folder,
    seal_removal,
)
from standfast.backup.restore import manifests_of
from standfast.backup.retention import (
    Decision,
    Point,
    Policy,
    dependants,
    plan_retention,
    removal_order,
)
from standfast.backup.state import PRUNER
from standfast.backup.sums import NONE
from standfast.backup.verify import read_root, remember_root
from standfast.errors import DamagedError, StandfastError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from standfast.backup.memory import Seen
    from standfast.backup.proof import Archive, Finding, Survey, Trust
    from standfast.backup.recipients import X25519Identity
    from standfast.backup.state import Root, Sent
    from standfast.backup.vault import Vault

# One run may remove this much unless it is told otherwise: more than half of a vault
# is more often a mistake, or a clock that was set wrong, than a policy.
MOST_SHARE = 0.5
MOST_FLOOR = 25


@dataclass(frozen=True)
class Wish:
    """What is asked of a prune.

    Attributes:
        policy: what to keep; None to remove only what is named in ``drop``.
        now: Unix seconds by this machine's clock.
        signers: the keys that count -> the key that the same machine had before.
        vouched: the owner vouches for the signed times of what has no time yet.
        drop: archives to remove by name: ids, or beginnings of ids.
        most: how many archives may go, as ``20`` or ``30%``; None for the default.
        names: archive id -> name, where manifests were read.
    """

    policy: Policy | None
    now: int
    signers: Mapping[str, str]
    vouched: bool = False
    drop: Sequence[str] = ()
    most: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass
class PrunePlan:
    """What a prune will do.

    Attributes:
        decisions: of every archive that is whole, and of what is dropped by name.
        order: the archives that go, in that order.
        removed: the same, as the removal names them.
        leftovers: archives of earlier removals that are still there.
        seen: this machine's memory of the vault, with this look at it.
        alarms: what was seen before and is gone; nothing is removed meanwhile.
        sizes: archive id -> stored bytes, of those that go and are there.
        names: archive id -> name, where that is known.
    """

    decisions: dict[str, Decision]
    order: list[str]
    removed: list[Removed]
    leftovers: list[str]
    seen: Seen
    alarms: list[Finding]
    sizes: dict[str, int]
    names: Mapping[str, str] = field(default_factory=dict)


def plan_prune(
    survey: Survey, seen: Seen, ledger: Mapping[str, Sent], wish: Wish
) -> PrunePlan:
    """Decide what goes. Pure.

    Args:
        survey: the judged vault.
        seen: this machine's memory before.
        ledger: what was sent from this machine, by id.
        wish: what is asked.

    Raises:
        UsageError: an archive to drop is not there, is unfinished, or is needed by
            one that stays.
        StandfastError: the clock is behind an earlier look.
    """
    seen = observe(seen, survey, wish.signers, wish.now, vouched=wish.vouched)
    present = {archive.id: archive for archive in survey.archives}
    points = _points(survey, seen, wish.names)
    named = _named(wish.drop, present, seen, ledger)
    decisions = _decide(points, wish, named)
    gone = {a for a, d in decisions.items() if not d.keep}
    _check_needs(points, gone, named)
    order = removal_order(gone & {p.id for p in points}, points)
    order += sorted(gone - set(order))
    removed = [
        removed
        for name in order
        for removed in _removed(name, present.get(name), seen, ledger, decisions[name])
    ]
    sizes = {name: present[name].stored for name in order if name in present}
    return PrunePlan(
        decisions=decisions,
        order=order,
        removed=removed,
        leftovers=[a.id for a in survey.archives if a.standing == GONE],
        seen=seen,
        alarms=[f for f in survey.alarms if not _is_about(f, named)],
        sizes=sizes,
    )


@dataclass
class Look:
    """A vault, looked at by a pruner.

    Attributes:
        survey: the judged vault.
        root: which version of its own files lies there.
        plan: what is to be done.
    """

    survey: Survey
    root: Root | None
    plan: PrunePlan


def look(
    vault: Vault, trust: Trust, wish: Wish, identity: X25519Identity | None = None
) -> Look:
    """Survey a vault and plan; nothing is changed.

    Args:
        vault: the vault.
        trust: whose signatures count.
        wish: what is asked.
        identity: places archives that do not say openly what they are of.

    Raises:
        UsageError: as ``plan_prune``.
        StandfastError: as ``plan_prune``.
    """
    survey, _ = vault.survey(trust)
    root, trouble = read_root(vault, trust)
    survey.findings += trouble
    survey.alarms += trouble
    if identity is not None:
        whole = [a for a in survey.archives if a.standing == COMMITTED]
        manifests, _ = manifests_of(vault, whole, identity)
        wish = replace(wish, names={a: m.name for a, m in manifests.items()})
    plan = plan_prune(survey, read_seen(vault.state), trust.ledger.sent, wish)
    plan.names = wish.names
    return Look(survey, root, plan)


def remember(vault: Vault, looked: Look) -> None:
    """Keep in mind what was seen, whatever becomes of the plan."""
    save_seen(vault.state, looked.plan.seen)
    remember_root(vault, looked.root)


def most_of(text: str, archives: int) -> int:
    """Return how many archives ``20`` or ``30%`` of them are.

    Raises:
        UsageError: it is neither.
    """
    number = text.removesuffix("%")
    if not number.isdecimal():
        raise UsageError(
            f"not a number of archives: {text}", hint="write it like 20 or 30%"
        )
    return int(number) if number == text else archives * int(number) // 100


def check_plan(plan: PrunePlan, most: str | None) -> None:
    """Refuse to carry out what looks like a mistake or an attack.

    Raises:
        DamagedError: the vault does not hold what it held; see ``alarms``.
        StandfastError: more would go than one run may remove.
    """
    if plan.alarms and plan.order:
        first = plan.alarms[0]
        raise DamagedError(
            f"nothing is removed from a vault that has lost something: {first.object}: "
            f"{first.text}",
            hint="`standfast backup verify VAULT` shows all of it; what is lost for "
            "good can be acknowledged with --drop ID",
        )
    archives = len(plan.decisions)
    allowed = max(int(archives * MOST_SHARE), MOST_FLOOR)
    if most is not None:
        allowed = most_of(most, archives)
    if len(plan.order) > allowed:
        raise StandfastError(
            f"{len(plan.order)} of {archives} archives would go, and one run may "
            f"remove {allowed}",
            hint="look at it with --dry-run; --max-remove N or N% allows more",
        )


def carry_out(
    vault: Vault, looked: Look, now: int, progress: Callable[[int, int], None]
) -> Removal | None:
    """Finish earlier removals, state this one, then delete.

    Returns what was stated, if anything goes.

    Raises:
        StoreError: the store failed; the next prune goes on from there.
    """
    plan = looked.plan
    _finish_earlier(vault, looked)
    if not plan.order:
        return None
    removal = _state(vault, plan, now)
    for archive in plan.order:
        _delete(vault, archive)
        progress(0, plan.sizes.get(archive, 0))
    gone = set(plan.order)
    kept = {a: s for a, s in plan.seen.archives.items() if a not in gone}
    save_seen(vault.state, msgspec.structs.replace(plan.seen, archives=kept))
    return removal


def _finish_earlier(vault: Vault, looked: Look) -> None:
    """Delete what earlier removals have named and a crash, or a host, left there."""
    key = vault.state.signer_key(PRUNER)
    removals = looked.survey.removals
    for folder in removals.unsigned if removals is not None else []:
        if key is not None and f"/{key.public.key_id}-" in folder:
            vault.store.delete_folder(folder)
    for archive in looked.plan.leftovers:
        _delete(vault, archive)


def _state(vault: Vault, plan: PrunePlan, now: int) -> Removal:
    """Write and sign the removal: from here on it counts.

    The number is on this machine's disk before it is signed, so that none is ever
    signed twice; one that a crash has left unsigned is skipped.
    """
    key = vault.state.make_signer_key(PRUNER)
    head = plan.seen.removals.get(key.public.text)
    number = max(plan.seen.number, head.number if head else 0) + 1
    removal = Removal(
        format=FORMAT,
        vault=vault.info.vault,
        number=number,
        previous=head.digest if head is not None else NONE,
        time=now,
        removed=plan.removed,
    )
    plan.seen = msgspec.structs.replace(plan.seen, number=number)
    save_seen(vault.state, plan.seen)
    document, signature = seal_removal(removal, key)
    folder = removal_folder(key.public.key_id, number)
    vault.store.put(f"{folder}/{REMOVAL_OBJECT}", document)
    vault.store.make_stable(folder)
    vault.store.put(f"{folder}/{REMOVAL_SIGNATURE}", signature)
    vault.store.make_stable(folder)
    heads = plan.seen.removals | {key.public.text: Head(number, digest_of(document))}
    plan.seen = msgspec.structs.replace(plan.seen, removals=heads)
    save_seen(vault.state, plan.seen)
    return removal


def _delete(vault: Vault, archive: str) -> None:
    folder = archive_folder(archive)
    vault.store.delete(f"{folder}/{SIGNATURE}")
    vault.store.delete_folder(folder)


def _points(survey: Survey, seen: Seen, names: Mapping[str, str]) -> list[Point]:
    """Return every whole archive as the memory has it."""
    points: list[Point] = []
    for archive in survey.archives:
        known = seen.archives.get(archive.id)
        if archive.standing != COMMITTED or known is None:
            continue
        line = known.line or None
        if line is None and archive.id in names:
            line = f"{known.signer} {names[archive.id].partition('@')[0]}"
        base = None if known.base in {"", NONE} else known.base
        points.append(Point(archive.id, line, base, known.time, known.order))
    return points


def _decide(
    points: Sequence[Point], wish: Wish, named: Mapping[str, str]
) -> dict[str, Decision]:
    stay = [point for point in points if point.id not in named]
    if wish.policy is None:
        decisions = {p.id: Decision(p.id, True, ["not asked for"]) for p in stay}
    else:
        decisions = plan_retention(stay, wish.policy, wish.now)
    dropped = {a: Decision(a, False, ["named with --drop"]) for a in named}
    return decisions | dropped


def _named(
    drop: Sequence[str],
    present: Mapping[str, Archive],
    seen: Seen,
    ledger: Mapping[str, Sent],
) -> dict[str, str]:
    """Return the archives that are to go by name: id -> what was written."""
    known = {*present, *seen.archives, *ledger}
    found: dict[str, str] = {}
    for prefix in drop:
        fitting = [name for name in known if name.startswith(prefix)]
        if len(fitting) != 1:
            raise UsageError(
                f"{len(fitting) or 'no'} archives begin with {prefix!r}",
                hint="`standfast backup list VAULT` shows their ids",
            )
        archive = present.get(fitting[0])
        if archive is not None and archive.standing == UNFINISHED:
            raise UsageError(
                f"{archive.id} is unfinished, no backup",
                hint="`standfast backup clean VAULT` removes it",
            )
        found[fitting[0]] = prefix
    return found


def _check_needs(
    points: Sequence[Point], gone: set[str], named: Mapping[str, str]
) -> None:
    needing = dependants(named, points) - gone
    if needing:
        raise UsageError(
            f"{len(needing)} increments that stay need what is to be dropped: "
            f"{', '.join(sorted(needing)[:3])}",
            hint="drop them as well, or keep it",
        )


def _removed(
    name: str,
    archive: Archive | None,
    seen: Seen,
    ledger: Mapping[str, Sent],
    decision: Decision,
) -> list[Removed]:
    """Return what to state of an archive: once for each sums it is known by.

    What lies there may have been altered since it was sent; both have to be named,
    or the one would be missed and the other be left.
    """
    known = seen.archives.get(name)
    sent = ledger.get(name)
    statement = archive.statement if archive is not None else None
    numbers = [s.sequence for s in (statement, known, sent) if s is not None]
    digests = [archive.sums_digest] if archive is not None else []
    digests += [one.sums for one in (known, sent) if one is not None]
    signer = archive.signer if archive is not None else ""
    if not signer and known is not None:
        signer = known.signer
    return [
        Removed(
            archive=name,
            sums=sums,
            signer=signer,
            sequence=numbers[0] if numbers else 0,
            why=", ".join(decision.reasons),
        )
        for sums in dict.fromkeys(digests)
    ]


def _is_about(finding: Finding, named: Mapping[str, str]) -> bool:
    """Return whether a finding is about an archive that is dropped by name."""
    return any(finding.object == archive_folder(name) for name in named)
