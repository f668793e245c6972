"""How well the backups of a configuration are: facts in, judged rows out. Pure.

A row is one dataset of one job in one vault. What a run noted (when it last left the
vault with the newest snapshot) is held against the job's ages; what the vault itself
shows (its listing and signatures) against what was sent; what ``verify`` and ``drill``
proved against how often they should. "Could not tell" is a state of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from standfast.backup.proof import COMMITTED, LEFTOVER
from standfast.backup.proven import DAMAGED, DECRYPT, FETCH, HASH, RESTORE
from standfast.backup.retention import Point, plan_retention
from standfast.backup.runs import DatasetRecord, JobRecord, PlaceRecord
from standfast.backup.state import COMMITTED as SENT_WHOLE
from standfast.backup.sums import NONE
from standfast.backup.thinning import policy_of
from standfast.grade import Grade, worst
from standfast.units import age_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from standfast.backup.config import Config, Job, KeepSection, Place
    from standfast.backup.proof import Archive, Finding
    from standfast.backup.state import Sent

# Of a verification that is due every so often one may be missed.
VERIFY_PERIODS = 2


@dataclass(frozen=True)
class Look:
    """A vault as it was found.

    Attributes:
        vault: its id; empty if it was not found.
        error: why it could not be looked at; empty if it could.
        archives: by id; empty where it was not looked at.
        findings: what is wrong with the vault as a whole.
        sent: what this machine sent there, by archive.
        proven: archive id -> kind of proof -> Unix time.
        looked: whether the vault itself was asked.
    """

    vault: str = ""
    error: str = ""
    archives: Mapping[str, Archive] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    sent: Mapping[str, Sent] = field(default_factory=dict)
    proven: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    looked: bool = True

    @cached_property
    def by_dataset(self) -> Mapping[str, list[str]]:
        """Dataset -> ids of the archives of it that were committed from here."""
        found: dict[str, list[str]] = {}
        for sent in self.sent.values():
            if sent.state == SENT_WHOLE:
                name = sent.name.partition("@")[0]
                found.setdefault(name, []).append(sent.archive)
        return found


@dataclass(frozen=True)
class Remark:
    """One thing that is not as it should be."""

    grade: Grade
    text: str


@dataclass(frozen=True)
class Row:
    """One dataset of one job in one vault; times are Unix seconds, 0 is never.

    Attributes:
        success: when a run last left the vault with the newest snapshot.
        snapshot: that snapshot.
        archives: how many of this dataset are there; None if that is not known.
        stored: their bytes; None likewise.
        chain: how many archives a restore of the newest needs; None likewise.
        verified: when one of them last passed a proof of every byte.
        restored: when one of them was last proven restorable.
        remarks: what is not as it should be.
    """

    job: str
    dataset: str
    place: str
    success: int
    snapshot: str
    archives: int | None
    stored: int | None
    chain: int | None
    verified: int
    restored: int
    remarks: tuple[Remark, ...]

    @property
    def grade(self) -> Grade:
        """The worst of its remarks."""
        return worst(remark.grade for remark in self.remarks)


@dataclass(frozen=True)
class PlaceRow:
    """A vault as a whole.

    Attributes:
        reached: whether it could be looked at; None if nobody tried.
        archives: how many whole ones are there, of all machines.
        stored: their bytes.
        spare: how many of them the vault's ``keep`` does not ask for, by the times that
            their senders signed; None where there is no such policy.
        remarks: what is not as it should be.
    """

    place: str
    address: str
    vault: str
    reached: bool | None
    archives: int
    stored: int
    spare: int | None
    remarks: tuple[Remark, ...]

    @property
    def grade(self) -> Grade:
        """The worst of its remarks."""
        return worst(remark.grade for remark in self.remarks)


@dataclass(frozen=True)
class Status:
    """All of it, the worst first."""

    rows: tuple[Row, ...]
    places: tuple[PlaceRow, ...]
    jobs: tuple[tuple[str, Remark], ...] = ()

    @property
    def grade(self) -> Grade:
        """The worst of all."""
        found: list[Grade] = [row.grade for row in self.rows]
        found += [place.grade for place in self.places]
        return worst([*found, *(remark.grade for _, remark in self.jobs)])


def judge_status(
    config: Config,
    records: Mapping[str, JobRecord],
    looks: Mapping[str, Look],
    now: float,
) -> Status:
    """Judge every job, dataset and vault of a configuration.

    Args:
        config: what should be.
        records: what runs have left, by job.
        looks: what the vaults show, by their name in the configuration.
        now: Unix seconds.
    """
    rows: list[Row] = []
    jobs: list[tuple[str, Remark]] = []
    for job in config.jobs.values():
        record = records.get(job.name, JobRecord())
        if record.error:
            jobs.append((job.name, Remark(Grade.WARNING, record.error)))
        for place in job.places:
            held = record.places.get(place.name, PlaceRecord())
            if not held.datasets:
                text = held.error or "it has never been run"
                remark = Remark(Grade.CRITICAL, f"nothing in {place.name}: {text}")
                jobs.append((job.name, remark))
            look = looks.get(place.name, Look(looked=False))
            rows += [
                _row(job, place, name, one, look, now)
                for name, one in held.datasets.items()
            ]
    places = [
        _place_row(place, looks.get(place.name, Look(looked=False)), now)
        for place in config.places.values()
    ]
    return Status(
        tuple(sorted(rows, key=lambda row: -row.grade.badness)),
        tuple(sorted(places, key=lambda place: -place.grade.badness)),
        tuple(sorted(jobs, key=lambda one: -one[1].grade.badness)),
    )


def _row(
    job: Job, place: Place, dataset: str, record: DatasetRecord, look: Look, now: float
) -> Row:
    ours = look.by_dataset.get(dataset, [])
    there = [look.archives[a] for a in ours if a in look.archives]
    whole = [archive for archive in there if archive.standing == COMMITTED]
    proofs = [look.proven.get(archive, {}) for archive in ours]
    verified = max((_bytes_proven(p) for p in proofs), default=0)
    restored = max((p.get(RESTORE, 0) for p in proofs), default=0)
    known = look.looked and not look.error
    remarks = [
        *_age_remarks(job, record, now),
        *_archive_remarks(record, look, ours),
        *_proof_remarks(job, place, verified, restored, _oldest(ours, look), now),
    ]
    return Row(
        job=job.name,
        dataset=dataset,
        place=place.name,
        success=record.success,
        snapshot=record.snapshot,
        archives=len(whole) if known else None,
        stored=sum(archive.stored for archive in whole) if known else None,
        chain=chain_length(record.archive, look.archives) if known else None,
        verified=verified,
        restored=restored,
        remarks=tuple(remarks),
    )


def chain_length(archive: str, archives: Mapping[str, Archive]) -> int | None:
    """Return how many archives a restore needs; None if they are not all there."""
    seen: set[str] = set()
    name = archive
    while name not in {"", NONE}:
        found = archives.get(name)
        if found is None or found.statement is None or name in seen:
            return None
        seen.add(name)
        name = found.statement.base
    return len(seen) or None


def _bytes_proven(times: Mapping[str, int]) -> int:
    return max(times.get(kind, 0) for kind in (HASH, FETCH, DECRYPT, RESTORE))


def _oldest(ours: Iterable[str], look: Look) -> int:
    return min((look.sent[archive].time for archive in ours), default=0)


def _age_remarks(job: Job, record: DatasetRecord, now: float) -> list[Remark]:
    remarks: list[Remark] = []
    if not record.success:
        why = f": {record.error}" if record.error else ""
        return [Remark(Grade.CRITICAL, f"it has never been sent{why}")]
    age = now - record.success
    if job.max_age is not None and age > job.max_age:
        # One period later than that it is no slip of one night any more.
        late = age > job.max_age + (job.schedule.every or job.max_age)
        grade = Grade.CRITICAL if late else Grade.WARNING
        remarks.append(Remark(grade, f"the last success is {age_text(age)} old"))
    if record.error:
        remarks.append(Remark(Grade.WARNING, record.error))
    return remarks


def _archive_remarks(
    record: DatasetRecord, look: Look, ours: Sequence[str]
) -> list[Remark]:
    remarks: list[Remark] = []
    damaged = [a for a in ours if DAMAGED in look.proven.get(a, {})]
    if damaged:
        text = f"archive {damaged[0]} failed its verification"
        remarks.append(Remark(Grade.CRITICAL, text))
    if not look.looked or look.error or not record.archive:
        return remarks
    tip = look.archives.get(record.archive)
    if tip is None:
        text = f"archive {record.archive} is gone from the vault"
        return [*remarks, Remark(Grade.CRITICAL, text)]
    if tip.standing != COMMITTED:
        why = tip.findings[0].text if tip.findings else tip.standing
        text = f"archive {record.archive}: {why}"
        return [*remarks, Remark(Grade.CRITICAL, text)]
    if chain_length(record.archive, look.archives) is None:
        text = f"archive {record.archive} lacks what it builds on"
        remarks.append(Remark(Grade.CRITICAL, text))
    return remarks


def _proof_remarks(
    job: Job, place: Place, verified: int, restored: int, oldest: int, now: float
) -> list[Remark]:
    remarks: list[Remark] = []
    limits = (
        (
            place.verify.every * VERIFY_PERIODS if place.verify else None,
            verified,
            "verified",
        ),
        (job.drill_age, restored, "proven restorable"),
    )
    for limit, last, word in limits:
        if limit is None or not oldest or now - (last or oldest) <= limit:
            continue
        when = f"last {word} {age_text(now - last)} ago" if last else f"never {word}"
        remarks.append(Remark(Grade.WARNING, when))
    return remarks


def _place_row(place: Place, look: Look, now: float) -> PlaceRow:
    remarks: list[Remark] = []
    if look.error:
        remarks.append(Remark(Grade.UNKNOWN, look.error))
    bad = [finding for finding in look.findings if finding.grade != LEFTOVER]
    remarks += [
        Remark(Grade.CRITICAL, f"{finding.object}: {finding.text}")
        for finding in bad[:1]
    ]
    if len(bad) > 1:
        more = f"and {len(bad) - 1} more findings; `standfast backup verify` names them"
        remarks.append(Remark(Grade.CRITICAL, more))
    whole = [a for a in look.archives.values() if a.standing == COMMITTED]
    return PlaceRow(
        place=place.name,
        address=place.address,
        vault=look.vault,
        reached=not look.error if look.looked else None,
        archives=len(whole),
        stored=sum(archive.stored for archive in whole),
        spare=None if place.keep is None else spare(whole, place.keep, now),
        remarks=tuple(remarks),
    )


def spare(archives: Sequence[Archive], keep: KeepSection, now: float) -> int:
    """Return how many archives a policy does not keep.

    It is an estimate: the machine that prunes goes by the times at which it saw them.
    """
    stated = [(a.id, a.statement) for a in archives if a.statement is not None]
    stated.sort(key=lambda one: (one[1].time, one[1].sequence))
    points = [
        Point(
            id=name,
            line=None if one.line in {"", NONE} else one.line,
            base=None if one.base in {"", NONE} else one.base,
            time=one.time,
            order=order,
        )
        for order, (name, one) in enumerate(stated)
    ]
    decided = plan_retention(points, policy_of(keep), int(now))
    return sum(not one.keep for one in decided.values())
