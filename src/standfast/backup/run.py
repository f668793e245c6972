"""A run: all that is due, to every vault, whatever fails beside it.

For each job: lock, hook, one snapshot of all its datasets, each vault in turn, old
snapshots, hook; what was done is remembered after each vault. A vault that cannot be
reached is left for the rest of the run, so that it costs its patience once, and a
dataset that cannot be sent stops no other. ``dry_run`` plans the same and does none
of it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from datetime import UTC
from typing import TYPE_CHECKING

import msgspec

from standfast.backup.chain import NOTHING, Request
from standfast.backup.dataset import (
    begin,
    open_source,
    plan_dataset,
    properties_of,
    send,
)
from standfast.backup.marks import remembered
from standfast.backup.run_report import (
    CURRENT,
    FAILED,
    PLANNED,
    SENT,
    JobReport,
    PlaceReport,
    Row,
    RunReport,
)
from standfast.backup.runs import DatasetRecord, JobRecord, PlaceRecord, Runs
from standfast.backup.schedule import Due, judge_due, period_start
from standfast.backup.selection import Selection, roots, select, snapshot_groups
from standfast.backup.send import Sender
from standfast.backup.state import VaultState
from standfast.backup.thinning import thin
from standfast.clock import local_time, utc_time
from standfast.errors import (
    CommandError,
    HostUnreachableError,
    LockedError,
    StandfastError,
    StoreError,
    UsageError,
)
from standfast.host.hooks import run_hook
from standfast.zfs.listing import Listing, Point, list_tree
from standfast.zfs.snapshots import destroy, take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from standfast.backup.chain import ChainPlan
    from standfast.backup.config import Job, Place
    from standfast.backup.dataset import Source
    from standfast.backup.vault import Vault
    from standfast.clock import Clock
    from standfast.console import Progress
    from standfast.host import Host

# An interrupted send is gone on with first, then the newest snapshot follows.
MOST_ARCHIVES_AT_ONCE = 4


@dataclass(frozen=True)
class Tools:
    """What a run needs besides its jobs.

    Attributes:
        host: the machine with the pools.
        clock: the time.
        base: the state folder.
        open_place: opens a vault, known here or pinned by its configuration.
        progress: returns the display for one send.
        tell: told of what hinders nothing.
        host_name: for manifests.
        versions: for manifests.
        force: run also what is not due.
        dry_run: plan, and do nothing.
    """

    host: Host
    clock: Clock
    base: Path
    open_place: Callable[[Place], Vault]
    progress: Callable[[str], Progress]
    tell: Callable[[str], None]
    host_name: str
    versions: dict[str, str] = field(default_factory=dict)
    force: bool = False
    dry_run: bool = False


class Places:
    """The vaults of a run, each opened once, or found out of reach once."""

    def __init__(self, tools: Tools) -> None:
        self._open = tools.open_place
        self._vaults: dict[str, Vault] = {}
        self._down: dict[str, StandfastError] = {}

    def get(self, place: Place) -> Vault:
        """Return a vault.

        Raises:
            StandfastError: it cannot be opened, or was given up before.
        """
        if place.name in self._down:
            raise self._down[place.name]
        if place.name not in self._vaults:
            try:
                self._vaults[place.name] = self._open(place)
            except StandfastError as error:
                self._down[place.name] = error
                raise
        return self._vaults[place.name]

    def give_up(self, place: Place, error: StandfastError) -> None:
        """Leave a vault for the rest of the run."""
        self._down[place.name] = error


def run_jobs(jobs: Sequence[Job], tools: Tools, places: Places) -> RunReport:
    """Do what is due of some jobs; what fails stands in the report."""
    report = RunReport(dry_run=tools.dry_run)
    for job in jobs:
        report.jobs.append(_JobRun(job, tools, places).run())
    return report


def due_places(
    job: Job, record: JobRecord, now: float, *, force: bool
) -> tuple[list[Place], str]:
    """Return the vaults that a job is due for, and the reason for the first."""
    judged: list[tuple[Place, Due]] = []
    for place in job.places:
        success = record.places.get(place.name, PlaceRecord()).success
        last = local_time(success) if success else None
        judged.append((place, judge_due(job.schedule, last, local_time(now))))
    due = [(place, verdict) for place, verdict in judged if verdict.due]
    if not due and force:
        return list(job.places), f"asked for; {judged[0][1].why}"
    first = (due or judged)[0][1].why
    return [place for place, _ in due], first


class _JobRun:
    """One job, step by step."""

    def __init__(self, job: Job, tools: Tools, places: Places) -> None:
        self._job = job
        self._tools = tools
        self._places = places
        self._runs = Runs(tools.base, job.name)
        self._now = tools.clock.now()
        self._report = JobReport(job.name, due=False, why="")
        self._record = JobRecord()

    def run(self) -> JobReport:
        """Do what is due."""
        try:
            due = self._look()
            if due and self._tools.dry_run:
                self._serve(due)
            elif due:
                with self._runs.locked():
                    # Another run may have done it while we waited for nothing.
                    due = self._look()
                    if due:
                        self._run_due(due)
        except StandfastError as error:
            self._report.due = True
            self._report.fail(error)
        return self._report

    def _look(self) -> list[Place]:
        self._record = self._runs.read()
        due, self._report.why = due_places(
            self._job, self._record, self._now, force=self._tools.force
        )
        self._report.due = bool(due)
        return due

    def _run_due(self, due: list[Place]) -> None:
        ended = "interrupted"
        try:
            self._hook("before", {})
            self._serve(due)
            ended = "failed" if self._report.failures else "done"
        except StandfastError as error:
            self._report.fail(error)
            ended = "failed"
        finally:
            # What the first hook has stopped must be started again, come what may.
            try:
                self._hook("after", {"STANDFAST_RESULT": ended})
            except StandfastError as error:
                self._report.fail(error)
            self._remember(
                failing=ended == "interrupted" or bool(self._report.failures)
            )

    def _hook(self, kind: str, environment: Mapping[str, str]) -> None:
        command = getattr(self._job, kind)
        if not command:
            return
        known = {
            "STANDFAST_JOB": self._job.name,
            "STANDFAST_SNAPSHOT": self._report.snapshot,
        }
        try:
            run_hook(
                command,
                environment={**known, **environment},
                timeout=self._job.hook_timeout,
            )
        except CommandError as error:
            raise CommandError(
                f"job.{self._job.name}.{kind}: {error.message}", hint=error.hint
            ) from None

    def _serve(self, due: list[Place]) -> None:
        vaults = self._open(due)
        properties = [key for vault in vaults.values() for key in properties_of(vault)]
        listing, selection = self._list(properties)
        if self._job.snapshot:
            listing = self._snapshots(listing, selection, properties)
        for place in self._report.places:
            if place.name in vaults:
                vault = vaults[place.name]
                self._to_place(place, vault, listing, selection.datasets)
                if not self._tools.dry_run:
                    self._remember(failing=True)
        self._thin(listing, selection.datasets)

    def _open(self, due: list[Place]) -> dict[str, Vault]:
        vaults: dict[str, Vault] = {}
        for place in due:
            report = PlaceReport(place.name)
            self._report.places.append(report)
            try:
                vaults[place.name] = self._places.get(place)
                report.vault = vaults[place.name].info.vault
            except StandfastError as error:
                report.fail(error)
        return vaults

    def _list(self, properties: Sequence[str]) -> tuple[Listing, Selection]:
        """List what the patterns may mean, and choose.

        Raises:
            CommandError: zfs cannot be asked.
            UsageError: nothing at all is there.
        """
        wanted = self._job.wanted
        names = roots(wanted.patterns)
        try:
            listing = list_tree(self._tools.host, names, properties)
        except UsageError:
            listing = self._list_singly(names, properties)
        selection = select(listing.datasets, wanted)
        for pattern in selection.missing:
            self._report.fail(UsageError(f"there is no dataset {pattern}"))
        if not selection.datasets:
            raise UsageError(
                f"job {self._job.name} has no dataset",
                hint="`zfs list` shows what there is",
            )
        return listing, selection

    def _list_singly(self, names: Sequence[str], properties: Sequence[str]) -> Listing:
        """List what there is of several roots of which one is not there."""
        found = Listing({}, bookmarks=False)
        for name in names:
            with contextlib.suppress(UsageError):
                one = list_tree(self._tools.host, [name], properties)
                found = Listing({**found.datasets, **one.datasets}, one.bookmarks)
        return found

    def _snapshots(
        self, listing: Listing, selection: Selection, properties: Sequence[str]
    ) -> Listing:
        """Make this period's snapshots, unless they are there; return the listing.

        A run that goes on where another has failed uses the other's snapshots.
        """
        job = self._job
        name = self._this_period_s(listing, selection.datasets)
        fresh = name is None
        name = name or job.naming.name(utc_time(self._now))
        self._report.snapshot = name
        missing = [
            dataset
            for dataset in selection.datasets
            if not _has(listing, dataset, name)
        ]
        if self._tools.dry_run:
            self._report.made = len(missing)
            return _as_if_made(listing, missing, name)
        if missing:
            groups = snapshot_groups(missing, listing.datasets)
            taken = take(self._tools.host, groups, name)
            self._report.made = len(missing)
            if not taken.together:
                self._note("this zfs makes one snapshot at a time: not of one moment")
        if missing or fresh:
            listing, _ = self._list(properties)
        return _up_to(listing, selection.datasets, name)

    def _this_period_s(self, listing: Listing, datasets: Sequence[str]) -> str | None:
        """Return the snapshots' name if every dataset has one of this period."""
        if not self._job.schedule.every or self._tools.force:
            return None
        common: set[str] | None = None
        for dataset in datasets:
            names = {p.short[1:] for p in listing.datasets[dataset].snapshots}
            common = names if common is None else common & names
        start = period_start(self._job.schedule, local_time(self._now))
        found: list[tuple[float, str]] = []
        for name in common or ():
            time = self._job.naming.time(name)
            if time is not None:
                seconds = time.replace(tzinfo=UTC).timestamp()
                if start <= local_time(seconds) <= local_time(self._now):
                    found.append((seconds, name))
        return max(found)[1] if found else None

    def _to_place(
        self,
        report: PlaceReport,
        vault: Vault,
        listing: Listing,
        datasets: Sequence[str],
    ) -> None:
        tools = self._tools
        place = next(p for p in self._job.places if p.name == report.name)
        try:
            trust = vault.trust([])
            source = open_source(tools.host, vault, listing, trust, self._note)
        except StandfastError as error:
            report.fail(error)
            self._places.give_up(place, error)
            return
        for dataset in datasets:
            try:
                for row in self._send(report, source, dataset):
                    report.rows.append(row)
            except (StoreError, HostUnreachableError, LockedError) as error:
                report.rows.append(_failed(dataset, error))
                report.fail(error)
                self._places.give_up(place, error)
                return
            except StandfastError as error:
                report.rows.append(_failed(dataset, error))
        report.finished = True

    def _send(self, report: PlaceReport, source: Source, dataset: str) -> Iterator[Row]:
        """Send a dataset; yields what was done, mostly one row."""
        request = Request(dataset, flags=self._job.flags)
        place = self._record.places.get(report.name, PlaceRecord())
        chained = place.datasets.get(dataset, DatasetRecord()).chain
        for _ in range(MOST_ARCHIVES_AT_ONCE):
            chain = plan_dataset(source, request)
            if chain.base is not None and 0 < self._job.full_every <= chained:
                chain = plan_dataset(source, replace(request, full=True))
            if chain.action == NOTHING:
                archive = chain.mark.archive if chain.mark else ""
                yield Row(dataset, CURRENT, chain.why, chain.target.name, archive)
                return
            if self._tools.dry_run:
                yield Row(dataset, PLANNED, chain.why, chain.target.name)
                return
            yield self._send_chain(report, source, request, chain)
            chained = 1 if chain.base is None else chained + 1
            if not chain.more:
                return
            source = self._again(source, dataset)

    def _send_chain(
        self, report: PlaceReport, source: Source, request: Request, chain: ChainPlan
    ) -> Row:
        tools = self._tools
        progress = tools.progress(f"{chain.target.name} to {report.name}")
        with progress.shown() as add:
            sender = Sender(
                clock=tools.clock,
                host_name=tools.host_name,
                versions=tools.versions,
                level=self._job.level,
                progress=add,
            )
            sending = begin(source, chain, request, sender)
            progress.expect(sending.plan.size)
            outcome = send(source, chain, request, sending, sender)
        return Row(
            dataset=request.dataset,
            state=SENT,
            why=chain.why,
            snapshot=chain.target.name,
            archive=outcome.archive,
            size=outcome.manifest.size,
            stored=outcome.stored,
            full=chain.base is None,
        )

    def _again(self, source: Source, dataset: str) -> Source:
        """Return the source as it is after an archive was sent."""
        vault = source.vault
        listing = list_tree(
            self._tools.host, [dataset], properties_of(vault), deep=False
        )
        if self._job.snapshot:
            listing = _up_to(listing, [dataset], self._report.snapshot)
        trust = vault.trust([])
        return open_source(self._tools.host, vault, listing, trust, self._note)

    def _thin(self, listing: Listing, datasets: Sequence[str]) -> None:
        """Destroy the job's own snapshots that its policy does not keep."""
        keep = self._job.keep
        if keep is None:
            return
        for dataset in datasets:
            needed = self._needed(listing, dataset)
            snapshots = listing.datasets[dataset].snapshots
            for one in thin(snapshots, self._job.naming, keep, needed, int(self._now)):
                if not one.keep and self._gone(one.name):
                    self._report.thinned.append(one.name)

    def _gone(self, name: str) -> bool:
        if not self._tools.dry_run:
            try:
                destroy(self._tools.host, name)
            except CommandError as error:
                self._note(f"{name} stays: {error.message}")
                return False
        return True

    def _needed(self, listing: Listing, dataset: str) -> set[int]:
        """Return the GUIDs that any vault of the job may still need here."""
        tools = self._tools
        found = listing.datasets[dataset]
        by_name = {point.short[1:]: point.guid for point in found.snapshots}
        needed: set[int] = set()
        for place in self._places_now().values():
            last = place.datasets.get(dataset)
            if last is not None and last.snapshot in by_name:
                needed.add(by_name[last.snapshot])
            if place.vault:
                state = VaultState(tools.base, place.vault, tools.clock)
                needed |= {int(one.begun.guid) for one in state.resumable()}
                for tree in (False, True):
                    memory = remembered(found, place.vault, state.ledger(), tree=tree)
                    needed |= {mark.guid for mark in memory.marks[:1]}
        return needed

    def _remember(self, *, failing: bool) -> None:
        self._record = msgspec.structs.replace(
            self._record,
            failing=failing,
            error=self._report.error,
            places=self._places_now(),
        )
        self._runs.write(self._record)

    def _places_now(self) -> dict[str, PlaceRecord]:
        """Return the memory of the job's vaults with what this run has added."""
        places = {
            name: place
            for name, place in self._record.places.items()
            if name in {place.name for place in self._job.places}
        }
        for report in self._report.places:
            old = places.get(report.name, PlaceRecord())
            places[report.name] = _place_record(old, report, int(self._now))
        return places

    def _note(self, text: str) -> None:
        self._report.notes.append(text)
        self._tools.tell(text)


def _place_record(old: PlaceRecord, report: PlaceReport, now: int) -> PlaceRecord:
    datasets: dict[str, DatasetRecord] = {}
    for row in report.rows:
        before = datasets.get(row.dataset) or old.datasets.get(row.dataset)
        before = before or DatasetRecord()
        if row.state == FAILED:
            datasets[row.dataset] = msgspec.structs.replace(before, error=row.why)
            continue
        chain = before.chain
        if row.state == SENT:
            chain = 1 if row.full else chain + 1
        datasets[row.dataset] = DatasetRecord(
            success=now,
            snapshot=row.snapshot.rpartition("@")[2],
            archive=row.archive,
            chain=chain,
        )
    whole = report.finished and not report.failures
    return PlaceRecord(
        vault=report.vault or old.vault,
        success=now if whole else old.success,
        tried=now,
        error=report.error,
        datasets=datasets if whole else {**old.datasets, **datasets},
    )


def _failed(dataset: str, error: StandfastError) -> Row:
    return Row(dataset, FAILED, error.message, status=error.status)


def _has(listing: Listing, dataset: str, name: str) -> bool:
    points = listing.datasets[dataset].snapshots
    return any(point.short == f"@{name}" for point in points)


def _up_to(listing: Listing, datasets: Sequence[str], name: str) -> Listing:
    """Return a listing in which a snapshot is the newest of each of some datasets.

    Others may have made newer ones since; those are theirs.
    """
    trimmed = dict(listing.datasets)
    for dataset in datasets:
        found = listing.datasets[dataset]
        ours = [p for p in found.snapshots if p.short == f"@{name}"]
        if ours:
            points = [p for p in found.points if p.createtxg <= ours[0].createtxg]
            trimmed[dataset] = replace(found, points=tuple(points))
    return replace(listing, datasets=trimmed)


def _as_if_made(listing: Listing, datasets: Sequence[str], name: str) -> Listing:
    """Return a listing with snapshots that a dry run does not make."""
    added = dict(listing.datasets)
    for dataset in datasets:
        found = listing.datasets[dataset]
        newest = max((p.createtxg for p in found.points), default=0)
        point = Point(f"{dataset}@{name}", guid=0, createtxg=newest + 1)
        added[dataset] = replace(found, points=(*found.points, point))
    return replace(listing, datasets=added)
