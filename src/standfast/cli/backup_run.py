"""``standfast backup run`` and ``check-config``."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.backup.config import Config, parse_config
from standfast.backup.notify import Message, deliver, event_of, is_wanted
from standfast.backup.run import Places, Tools, due_places, run_jobs
from standfast.backup.run_verify import audit_due, verify_due
from standfast.backup.runs import Runs
from standfast.backup.timetable import Timetable
from standfast.backup.vault import open_vault, ready_to_send
from standfast.cli.session import host_name
from standfast.clock import local_time
from standfast.errors import ExitStatus, UsageError
from standfast.pace import Pace, Scheduled, Unlimited
from standfast.zfs.streams import version

if TYPE_CHECKING:
    from standfast.backup.config import Job, Place
    from standfast.backup.run_report import RunReport
    from standfast.backup.vault import Vault
    from standfast.cli.session import Session
    from standfast.clock import Clock

FREEBSD_CONFIG = "/usr/local/etc/standfast/backup.toml"
LINUX_CONFIG = "/etc/standfast/backup.toml"


def run(session: Session) -> int:
    """Do what is due, and tell who wants to know."""
    _, config = load_config(session)
    jobs = config.chosen(session.arguments.jobs)
    failing = {job.name: Runs(session.base, job.name).read().failing for job in jobs}
    tools = _tools(session)
    places = Places(tools)
    report = run_jobs(jobs, tools, places)
    wanted = {place.name: place for job in jobs for place in job.places}
    report.verified += verify_due(wanted.values(), tools, places)
    served = {p.name for job in report.jobs for p in job.places}
    audited = [place for name, place in wanted.items() if name in served]
    report.verified += audit_due(audited, tools, places, secrets.SystemRandom())
    session.console.result(report.document(), "\n".join(report.lines()))
    if session.console.loudness < 0:
        # Cron sends as mail what is printed, and only that.
        for line in report.complaints():
            session.console.complain(line)
    if report.did_something and not report.dry_run:
        _tell(session, config, report, failing)
    return int(report.status())


def check_config(session: Session) -> int:
    """Check the configuration, and say what it asks for."""
    path, config = load_config(session)
    now = session.clock.now()
    jobs = [_job_document(session, job, now) for job in config.jobs.values()]
    document = {
        "path": path,
        "vaults": {name: place.address for name, place in config.places.items()},
        "jobs": jobs,
    }
    lines = [f"{path} is good: {len(config.places)} vaults, {len(jobs)} jobs"]
    for job in jobs:
        lines.append(f"job {job['job']}: {' '.join(job['datasets'])}")
        lines.append(f"  to {', '.join(job['vaults'])}")
        lines.append(f"  {'due' if job['due'] else 'not due'}: {job['why']}")
    session.console.result(document, "\n".join(lines))
    return 0


def load_config(session: Session) -> tuple[str, Config]:
    """Return the configuration, and where it was found.

    Raises:
        UsageError: there is none, others may write it, or something in it is wrong.
    """
    path = session.arguments.config or find_config()
    return path, read_config(path)


def read_config(path: str) -> Config:
    """Return the configuration in a file.

    Raises:
        UsageError: there is none, others may write it, or something in it is wrong.
    """
    try:
        _check_owner(path)
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise UsageError(
            f"cannot read {path}: {reason}",
            hint="docs/backup.md shows what to write there; --config names another",
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} holds no text") from None
    return parse_config(text, path)


def find_config() -> str:
    """Return the user's own configuration if there is one, else the system's."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # A service may run without a home.
    with contextlib.suppress(RuntimeError, OSError):
        home = Path(base) if base.startswith("/") else Path("~/.config").expanduser()
        own = home / "standfast" / "backup.toml"
        if own.exists():
            return str(own)
    return FREEBSD_CONFIG if sys.platform.startswith("freebsd") else LINUX_CONFIG


def open_place(session: Session, place: Place) -> Vault:
    """Return a vault of the configuration, fit to be sent to.

    Raises:
        StandfastError: it cannot be reached, is not known here, or was altered.
    """
    pace = pace_of(place.timetable, session.clock)
    store = session.store_at(place.address, pace, place.patience)
    vault = open_vault(store, session.base, session.clock)
    return ready_to_send(vault, place.recipient or None)


def pace_of(timetable: Timetable, clock: Clock) -> Pace:
    """Return what holds transfers back to a timetable."""
    if timetable == Timetable():
        return Unlimited()
    return Scheduled(lambda: timetable.rate_at(local_time(clock.now())), clock)


def _check_owner(path: str) -> None:
    """Refuse a file that others may write: it names commands that we run.

    Raises:
        UsageError: they may.
        OSError: there is no such file.
    """
    stat = Path(path).stat()
    if stat.st_mode & 0o002 or stat.st_uid not in {0, os.geteuid()}:
        raise UsageError(
            f"others can write {path}, and it names commands that are run",
            hint=f"chown root {path}; chmod 600 {path}",
        )


def _tools(session: Session) -> Tools:
    console = session.console
    found = version(session.host)
    return Tools(
        host=session.host,
        clock=session.clock,
        base=session.base,
        open_place=partial(open_place, session),
        progress=lambda title: console.progress(title, 0, session.clock),
        tell=console.note,
        host_name=host_name(),
        versions={"zfs": found} if found else {},
        force=session.arguments.force,
        dry_run=session.arguments.dry_run,
    )


def _tell(
    session: Session, config: Config, report: RunReport, failing: dict[str, bool]
) -> None:
    """Tell how it ended; that a job is still running is no news."""
    news = replace(
        report,
        jobs=[job for job in report.jobs if job.status != ExitStatus.LOCKED],
    )
    if not news.did_something:
        return
    before = any(failing[job.name] for job in news.jobs if job.due)
    event = event_of(failed=bool(news.failures), before=before)
    if not is_wanted(event, config.notify):
        return
    subject = news.subject(host_name())
    document: dict[str, Any] = {
        "event": event,
        "text": subject,
        "host": host_name(),
        **news.document(),
    }
    message = Message(event, subject, "\n".join([subject, *news.lines()]), document)
    for trouble in deliver(message, config.notify):
        session.console.note(f"not told: {trouble}")


def _job_document(session: Session, job: Job, now: float) -> dict[str, Any]:
    record = Runs(session.base, job.name).read()
    due, why = due_places(job, record, now, force=False)
    return {
        "job": job.name,
        "datasets": list(job.wanted.patterns),
        "exclude": list(job.wanted.exclude),
        "recursive": job.wanted.recursive,
        "vaults": [place.name for place in job.places],
        "due": bool(due),
        "why": why,
    }
