"""``backup.toml``: vaults, jobs, and who is told of them. Pure.

Everything has a default but the vaults' addresses and the jobs' datasets. Durations
are written like ``30s``, ``6h``, ``7d``; rates like ``1M``. A mistake is named by its
path, with the nearest name that exists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from standfast.backup.schedule import (
    Naming,
    Schedule,
    check_naming,
    check_schedule,
)
from standfast.backup.selection import Wanted, check_pattern
from standfast.backup.timetable import Timetable, parse_minutes, parse_timetable
from standfast.config import Section, at, between, near, read_toml
from standfast.errors import UsageError
from standfast.units import parse_duration
from standfast.zfs.streams import check_flags

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
LEVELS = range(1, 20)


class KeepSection(Section, frozen=True):
    """A ``keep`` table: how many of each kind stay; what several keep stays once.

    Attributes:
        last: all of the newest so many days that have any.
        hourly: the first of each of so many hours; daily to yearly likewise.
        within: all that are younger, as in ``48h``.
        minimum: never fewer than the first ones of so many days.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: str = ""
    minimum: int = 1


class VaultSection(Section, frozen=True):
    """``[vault.NAME]``: a place that backups go to.

    Attributes:
        address: as on the command line.
        recipient: the vault recipient from the recovery kit; needed on a machine
            that neither made the vault nor sent to it before.
        bandwidth: a rate or a timetable; see standfast.backup.timetable.
        retry_for: how long one object is tried again when a connection fails.
        verify: how often ``run`` verifies it; empty is never.
        audit: of how many objects each run has the far end prove that it has them.
        keep: what ``prune`` is meant to leave there.
    """

    address: str
    recipient: str = ""
    bandwidth: str = ""
    retry_for: str = "2m"
    verify: str = ""
    audit: int = 0
    keep: KeepSection | None = None


class JobSection(Section, frozen=True):
    """``[job.NAME]``: datasets that go to vaults together.

    Attributes:
        datasets: names, or patterns with ``*``, ``?`` and ``**``.
        exclude: patterns of what is left out, with all below it.
        recursive: whether what lies below is meant too.
        vaults: where to; default: all.
        every: how often; empty is whenever ``run`` is called.
        at: local time at which its periods begin.
        snapshot: whether to make one first; otherwise the newest there is goes out.
        name: what its snapshots are called, in UTC; ``{job}`` is the job's name.
        keep: its own snapshots that stay on this machine; without it all do.
        raw: send encrypted datasets as they are on disk.
        send_flags: further flags of ``zfs send``.
        compression_level: zstd, 1 to 19.
        full_every: after so many archives of a dataset a full one begins a new
            chain; 0 is never.
        before: a command to run before the snapshots; if it fails the job does.
        after: a command to run after the sends, whatever became of them.
        hook_timeout: after this a command is killed, and has failed.
        max_age: a success older than this is worth a warning; default: a period
            and a quarter.
        drill_age: as old as the last proof by restore may be; empty is not judged.
    """

    datasets: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    recursive: bool = False
    vaults: tuple[str, ...] = ()
    every: str = "1d"
    at: str = "00:00"
    snapshot: bool = True
    name: str = "{job}-%Y-%m-%d-%H%M%S"
    keep: KeepSection | None = None
    raw: bool = False
    send_flags: tuple[str, ...] = ()
    compression_level: int = 3
    full_every: int = 0
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    hook_timeout: str = "10m"
    max_age: str = ""
    drill_age: str = ""


class NotifySection(Section, frozen=True):
    """``[notify]``: who is told how a run ended.

    Attributes:
        when: failure is each run that failed; recovery also the first that succeeds
            after one; always is each run that did something.
        command: gets the text on standard input and STANDFAST_* in its environment.
        webhook_file: a file with the URL that gets a POST; only its owner may read it.
        token_file: a file with a token, sent as ``Authorization: Bearer``.
        body: what is posted: json is a document, text the message alone.
        timeout: for each.
    """

    when: Literal["failure", "recovery", "always"] = "recovery"
    command: tuple[str, ...] = ()
    webhook_file: str = ""
    token_file: str = ""
    body: Literal["json", "text"] = "json"
    timeout: str = "30s"


class File(Section, frozen=True):
    """The whole file."""

    vault: dict[str, VaultSection]
    job: dict[str, JobSection]
    notify: NotifySection = NotifySection()


@dataclass(frozen=True)
class Place:
    """A vault to send to; see VaultSection."""

    name: str
    address: str
    recipient: str
    timetable: Timetable
    patience: float
    verify: Schedule | None
    audit: int
    keep: KeepSection | None


@dataclass(frozen=True)
class Job:
    """What goes where, and when; see JobSection.

    Attributes:
        max_age: seconds; None where there is no period to judge by.
        drill_age: seconds; None is not judged.
    """

    name: str
    wanted: Wanted
    places: tuple[Place, ...]
    schedule: Schedule
    snapshot: bool
    naming: Naming
    keep: KeepSection | None
    flags: tuple[str, ...]
    level: int
    full_every: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    hook_timeout: float
    max_age: float | None
    drill_age: float | None


@dataclass(frozen=True)
class Config:
    """A checked configuration.

    Attributes:
        places: by the vault's name in the file.
        jobs: by name, in the order of the file.
        notify: who is told.
    """

    places: Mapping[str, Place]
    jobs: Mapping[str, Job]
    notify: NotifySection

    def chosen(self, names: tuple[str, ...] | list[str]) -> list[Job]:
        """Return the named jobs, or all.

        Raises:
            UsageError: there is no such job.
        """
        for name in names:
            if name not in self.jobs:
                raise UsageError(f"there is no job {name}", hint=near(name, self.jobs))
        return [job for name, job in self.jobs.items() if not names or name in names]


def parse_config(text: str, source: str = "the configuration") -> Config:
    """Read and check a configuration.

    Raises:
        UsageError: it is no TOML, or something in it is wrong; the message starts
            with the path of what is.
    """
    file = read_toml(text, File, source)
    if not file.vault:
        raise UsageError("vault: there is none", hint="add a [vault.NAME] table")
    if not file.job:
        raise UsageError("job: there is none", hint="add a [job.NAME] table")
    places = {name: _place(name, part) for name, part in file.vault.items()}
    _check_distinct(places)
    jobs = {name: _job(name, part, places) for name, part in file.job.items()}
    _check_notify(file.notify)
    return Config(places, jobs, file.notify)


def _place(name: str, section: VaultSection) -> Place:
    path = f"vault.{name}"
    _check_name(path, name)
    if not section.address:
        raise UsageError(f"{path}.address: it is empty")
    if "://" not in section.address and not section.address.startswith("/"):
        raise UsageError(
            f"{path}.address: a directory must be given from the root on",
            hint="timers start in no folder that one could rely on",
        )
    at(f"{path}.audit", partial(between, section.audit, 0, 10_000))
    if section.keep is not None:
        _check_keep(f"{path}.keep", section.keep)
    return Place(
        name,
        section.address,
        section.recipient,
        at(f"{path}.bandwidth", partial(parse_timetable, section.bandwidth)),
        at(f"{path}.retry_for", partial(parse_duration, section.retry_for)),
        at(f"{path}.verify", partial(_schedule, section.verify, "00:00"))
        if section.verify
        else None,
        section.audit,
        section.keep,
    )


def _check_distinct(places: Mapping[str, Place]) -> None:
    seen: dict[str, str] = {}
    for name, place in places.items():
        first = seen.setdefault(place.address, name)
        if first != name:
            raise UsageError(f"vault.{name}.address: the same as that of vault.{first}")


def _job(name: str, section: JobSection, places: Mapping[str, Place]) -> Job:
    path = f"job.{name}"
    _check_name(path, name)
    for vault in section.vaults:
        if vault not in places:
            raise UsageError(
                f"{path}.vaults: there is no vault {vault}", hint=near(vault, places)
            )
    _check_hooks(path, section)
    at(
        f"{path}.compression_level",
        partial(between, section.compression_level, LEVELS[0], LEVELS[-1]),
    )
    at(f"{path}.full_every", partial(between, section.full_every, 0, 100_000))
    if section.keep is not None:
        _check_keep(f"{path}.keep", section.keep)
    flags = (*(("-w",) if section.raw else ()), *section.send_flags)
    at(f"{path}.send_flags", partial(check_flags, flags))
    schedule = at(f"{path}.every", partial(_schedule, section.every, section.at))
    pattern = section.name.replace("{job}", name)
    return Job(
        name=name,
        wanted=_wanted(path, section),
        places=tuple(places[v] for v in section.vaults or tuple(places)),
        schedule=schedule,
        snapshot=section.snapshot,
        naming=at(f"{path}.name", partial(check_naming, pattern)),
        keep=section.keep,
        flags=flags,
        level=section.compression_level,
        full_every=section.full_every,
        before=section.before,
        after=section.after,
        hook_timeout=at(
            f"{path}.hook_timeout", partial(parse_duration, section.hook_timeout)
        ),
        max_age=_max_age(path, section, schedule),
        drill_age=_age(f"{path}.drill_age", section.drill_age),
    )


def _wanted(path: str, section: JobSection) -> Wanted:
    if not section.datasets:
        raise UsageError(f"{path}.datasets: there is none")
    for key, patterns in (("datasets", section.datasets), ("exclude", section.exclude)):
        for pattern in patterns:
            at(f"{path}.{key}", partial(check_pattern, pattern))
    return Wanted(section.datasets, section.exclude, section.recursive)


def _schedule(every: str, begin: str) -> Schedule:
    seconds = parse_duration(every) if every else 0
    return check_schedule(Schedule(int(seconds), parse_minutes(begin) % (24 * 60)))


def _max_age(path: str, section: JobSection, schedule: Schedule) -> float | None:
    given = _age(f"{path}.max_age", section.max_age)
    if given is not None or not schedule.every:
        return given
    return schedule.every * 1.25


def _age(path: str, text: str) -> float | None:
    return at(path, partial(parse_duration, text)) if text else None


def _check_hooks(path: str, section: JobSection) -> None:
    for key in ("before", "after"):
        command = getattr(section, key)
        if command and not command[0]:
            raise UsageError(f"{path}.{key}: the command is empty")


def _check_keep(path: str, keep: KeepSection) -> None:
    counts = ("last", "hourly", "daily", "weekly", "monthly", "yearly", "minimum")
    for key in counts:
        at(f"{path}.{key}", partial(between, getattr(keep, key), 0, 100_000))
    if keep.within:
        at(f"{path}.within", partial(parse_duration, keep.within))
    if not keep.within and not any(getattr(keep, key) for key in counts[:-1]):
        raise UsageError(
            f"{path}: it keeps nothing", hint='as in `daily = 7` or `within = "14d"`'
        )


def _check_notify(notify: NotifySection) -> None:
    at("notify.timeout", partial(parse_duration, notify.timeout))
    if notify.command and not notify.command[0]:
        raise UsageError("notify.command: the command is empty")
    if notify.token_file and not notify.webhook_file:
        raise UsageError("notify.token_file: there is no webhook_file to use it with")


def _check_name(path: str, name: str) -> None:
    # A job's name becomes part of snapshot names and of file names.
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{path}: a name is up to 40 letters, digits, - and _, a letter first"
        )
