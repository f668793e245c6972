"""What a run did, or would do: for people, for programs, for the exit status. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from standfast.errors import ExitStatus
from standfast.units import size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from standfast.errors import StandfastError

SENT = "sent"
CURRENT = "current"
FAILED = "failed"
PLANNED = "planned"


@dataclass(frozen=True)
class Row:
    """One dataset and one vault.

    Attributes:
        dataset: its name.
        state: SENT, CURRENT (nothing to send), FAILED or PLANNED.
        why: the plan's reason, or the error.
        snapshot: what went out, or is there already.
        archive: the archive's id.
        size: plaintext bytes.
        stored: bytes in the vault.
        full: whether it begins a new chain.
        status: exit status of a failure.
    """

    dataset: str
    state: str
    why: str
    snapshot: str = ""
    archive: str = ""
    size: int = 0
    stored: int = 0
    full: bool = False
    status: ExitStatus = ExitStatus.DONE


@dataclass
class PlaceReport:
    """One vault of a job.

    Attributes:
        name: the vault's name in the configuration.
        vault: its id, once it was reached.
        rows: the datasets.
        finished: whether every dataset had its turn.
        error: why it could not be served as a whole.
        status: exit status of that error.
    """

    name: str
    vault: str = ""
    finished: bool = False
    rows: list[Row] = field(default_factory=list)
    error: str = ""
    status: ExitStatus = ExitStatus.DONE

    def fail(self, error: StandfastError) -> None:
        """Note that the vault cannot be served."""
        self.error = error.message
        self.status = error.status

    @property
    def failures(self) -> list[ExitStatus]:
        """The statuses of all that failed."""
        found = [self.status] if self.error else []
        return found + [row.status for row in self.rows if row.state == FAILED]


@dataclass
class JobReport:
    """One job.

    Attributes:
        name: its name.
        due: whether it ran.
        why: why it did, or did not.
        snapshot: the name of the snapshots that were made, or used.
        made: how many were made.
        places: its vaults that were due.
        thinned: snapshots that went, or would go.
        notes: what hindered nothing.
        error: what failed beside the vaults.
        status: exit status of that error.
    """

    name: str
    due: bool
    why: str
    snapshot: str = ""
    made: int = 0
    places: list[PlaceReport] = field(default_factory=list)
    thinned: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: str = ""
    status: ExitStatus = ExitStatus.DONE

    def fail(self, error: StandfastError) -> None:
        """Note the first thing that failed beside the vaults."""
        if not self.error:
            self.error = error.message
            self.status = error.status

    @property
    def failures(self) -> list[ExitStatus]:
        """The statuses of all that failed."""
        found = [self.status] if self.error else []
        return found + [s for place in self.places for s in place.failures]

    @property
    def served(self) -> bool:
        """Whether something came where it should."""
        states = {row.state for place in self.places for row in place.rows}
        return bool(states & {SENT, CURRENT})


@dataclass(frozen=True)
class Verified:
    """A verification or an audit that was due.

    Attributes:
        place: the vault's name in the configuration.
        good: whether all was well.
        text: what was found.
        status: exit status.
        kind: ``verified`` or ``audited``.
    """

    place: str
    good: bool
    text: str
    status: ExitStatus
    kind: str = "verified"


@dataclass
class RunReport:
    """All jobs of a run."""

    jobs: list[JobReport] = field(default_factory=list)
    verified: list[Verified] = field(default_factory=list)
    dry_run: bool = False

    @property
    def failures(self) -> list[ExitStatus]:
        """The statuses of all that failed."""
        found = [s for job in self.jobs for s in job.failures]
        return found + [v.status for v in self.verified if not v.good]

    @property
    def did_something(self) -> bool:
        """Whether anything was due."""
        return bool(self.verified) or any(job.due for job in self.jobs)

    def status(self) -> ExitStatus:
        """Return the exit status: partly done, or the failure where there is one."""
        failures = self.failures
        if not failures:
            return ExitStatus.DONE
        good = any(job.served for job in self.jobs) or any(
            v.good for v in self.verified
        )
        if good:
            return ExitStatus.PARTLY_DONE
        return failures[0] if len(set(failures)) == 1 else ExitStatus.FAILED

    def subject(self, host: str) -> str:
        """Return one line for a message."""
        names = ", ".join(job.name for job in self.jobs if job.due) or "nothing due"
        failed = len(self.failures)
        word = "done" if not failed else f"FAILED ({failed})"
        return f"standfast backup on {host}: {word}: {names}"

    def lines(self) -> Iterator[str]:
        """Yield what happened, for a person."""
        for job in self.jobs:
            yield from _job_lines(job, dry_run=self.dry_run)
        for verified in self.verified:
            word = verified.kind if verified.good else "NOT WHOLE"
            yield f"vault {verified.place} {word}: {verified.text}"

    def complaints(self) -> Iterator[str]:
        """Yield what failed, a line each, and nothing else."""
        for job in self.jobs:
            for place in job.places:
                if place.error:
                    yield f"job {job.name} to {place.name}: {place.error}"
                for row in place.rows:
                    if row.state == FAILED and row.why != place.error:
                        yield f"{row.dataset} to {place.name}: {row.why}"
            if job.error:
                yield f"job {job.name}: {job.error}"
        for verified in self.verified:
            if not verified.good:
                yield f"vault {verified.place}: {verified.text}"

    def document(self) -> dict[str, Any]:
        """Return the same for a program."""
        return {
            "dry_run": self.dry_run,
            "status": int(self.status()),
            "jobs": [_job_document(job) for job in self.jobs],
            "verified": [
                {"vault": v.place, "kind": v.kind, "ok": v.good, "text": v.text}
                for v in self.verified
            ],
        }


def _job_lines(job: JobReport, *, dry_run: bool) -> Iterator[str]:
    if not job.due:
        yield f"job {job.name} is not due: {job.why}"
    else:
        yield f"job {job.name} {'would run' if dry_run else 'ran'}: {job.why}"
    if job.made:
        word = "would make" if dry_run else "made"
        yield f"  {word} {job.made} snapshots @{job.snapshot}"
    elif job.snapshot:
        yield f"  uses the snapshots @{job.snapshot}"
    for place in job.places:
        yield from _place_lines(place)
    for name in job.thinned:
        yield f"  {'would destroy' if dry_run else 'destroyed'} {name}"
    for note in job.notes:
        yield f"  note: {note}"
    if job.error:
        yield f"  FAILED: {job.error}"


def _place_lines(place: PlaceReport) -> Iterator[str]:
    if place.error:
        yield f"  to {place.name}: FAILED: {place.error}"
    current = [row for row in place.rows if row.state == CURRENT]
    for row in place.rows:
        if row.state == SENT:
            yield (
                f"  to {place.name}: sent {row.snapshot}, {size_text(row.size)} stored "
                f"as {size_text(row.stored)}; {row.why}"
            )
        elif row.state == PLANNED:
            yield f"  to {place.name}: would send {row.snapshot}; {row.why}"
        elif row.state == FAILED:
            yield f"  to {place.name}: FAILED: {row.dataset}: {row.why}"
    if len(current) == 1:
        yield f"  to {place.name}: {current[0].why}"
    elif current:
        yield f"  to {place.name}: nothing to send of {len(current)} datasets"


def _job_document(job: JobReport) -> dict[str, Any]:
    return {
        "job": job.name,
        "due": job.due,
        "why": job.why,
        "snapshot": job.snapshot or None,
        "snapshots_made": job.made,
        "destroyed": job.thinned,
        "notes": job.notes,
        "error": job.error or None,
        "vaults": [
            {
                "vault": place.name,
                "id": place.vault or None,
                "error": place.error or None,
                "datasets": [_row_document(row) for row in place.rows],
            }
            for place in job.places
        ],
    }


def _row_document(row: Row) -> dict[str, Any]:
    return {
        "dataset": row.dataset,
        "state": row.state,
        "why": row.why,
        "snapshot": row.snapshot or None,
        "archive": row.archive or None,
        "bytes": row.size,
        "stored_bytes": row.stored,
    }
