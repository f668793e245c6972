"""``standfast backup status``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from standfast.backup.looking import look_at, read_records
from standfast.backup.status import Status, judge_status
from standfast.backup.vault import open_vault
from standfast.cli.backup_run import load_config
from standfast.clock import utc_text
from standfast.console import table
from standfast.errors import StandfastError
from standfast.grade import Grade
from standfast.pace import Unlimited
from standfast.units import age_text, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from standfast.backup.config import Config, Place
    from standfast.backup.status import PlaceRow, Remark, Row
    from standfast.backup.vault import Vault
    from standfast.cli.session import Session


def status(session: Session) -> int:
    """Show how well the backups are, the worst first."""
    _, config = load_config(session)
    now = session.clock.now()
    try:
        found = gather(session, config, ask=not session.arguments.offline)
    except StandfastError as error:
        # A monitor knows four statuses, and this is the fourth.
        remark = {"state": Grade.UNKNOWN, "status": 3, "error": error.message}
        session.console.result(remark, f"BACKUP UNKNOWN: {error.message}")
        return Grade.UNKNOWN.exit_status
    if session.arguments.textfile:
        # It takes a while to import, and most calls want none.
        from standfast.backup.metrics import exposition, write_textfile  # noqa: PLC0415

        write_textfile(session.arguments.textfile, exposition(found, now))
    session.console.result(status_document(found, now), "\n".join(lines(found, now)))
    return found.grade.exit_status


def gather(session: Session, config: Config, *, ask: bool) -> Status:
    """Return the status of a configuration.

    Args:
        session: the command's.
        config: what should be.
        ask: whether to look into the vaults, or go by memory alone.

    Raises:
        StandfastError: this machine's memory cannot be read.
    """
    records = read_records(config, session.base)
    opener = partial(_open, session) if ask else None
    looks = look_at(config, records, session.base, session.clock, opener)
    return judge_status(config, records, looks, session.clock.now())


def lines(found: Status, now: float) -> Iterator[str]:
    """Yield the status for a person; the first line is for a monitor."""
    yield headline(found, now)
    for job, remark in found.jobs:
        yield f"{remark.grade}: job {job}: {remark.text}"
    for place in found.places:
        for remark in place.remarks:
            yield f"{remark.grade}: vault {place.place}: {remark.text}"
    for row in found.rows:
        for remark in row.remarks:
            yield f"{remark.grade}: {row.dataset} in {row.place}: {remark.text}"
    if found.rows:
        yield ""
        yield _table(found, now)
    for place in found.places:
        if place.reached:
            text = f"{place.archives} archives, {size_text(place.stored)}"
            if place.spare:
                text += f"; {place.spare} of them its policy need not keep"
            yield f"vault {place.place}: {text}"


def headline(found: Status, now: float) -> str:
    """Return one line that says it all."""
    word = found.grade.upper()
    datasets = len({row.dataset for row in found.rows})
    text = f"BACKUP {word}: {datasets} datasets, {len(found.places)} vaults"
    ages = [now - row.success for row in found.rows if row.success]
    if ages:
        text += f", the oldest success {age_text(max(ages))} ago"
    return text


def status_document(found: Status, now: float) -> dict[str, Any]:
    """Return the status for a program."""
    return {
        "state": found.grade,
        "status": found.grade.exit_status,
        "time": int(now),
        "jobs": [{"job": job, **_remark(remark)} for job, remark in found.jobs],
        "vaults": [_place_document(place) for place in found.places],
        "datasets": [_row_document(row) for row in found.rows],
    }


def _open(session: Session, place: Place) -> Vault:
    store = session.store_at(place.address, Unlimited(), place.patience)
    return open_vault(store, session.base, session.clock)


def _table(found: Status, now: float) -> str:
    headers = [
        "STATE", "DATASET", "VAULT", "SUCCESS", "ARCHIVES", "STORED", "CHAIN",
        "VERIFIED", "RESTORED",
    ]  # fmt: skip
    return table(headers, [_cells(row, now) for row in found.rows])


def _cells(row: Row, now: float) -> list[str]:
    def ago(time: int) -> str:
        return age_text(now - time) if time else "never"

    def number(count: int | None) -> str:
        return "?" if count is None else str(count)

    return [
        row.grade,
        row.dataset,
        row.place,
        ago(row.success),
        number(row.archives),
        "?" if row.stored is None else size_text(row.stored),
        number(row.chain),
        ago(row.verified),
        ago(row.restored),
    ]


def _row_document(row: Row) -> dict[str, Any]:
    return {
        "job": row.job,
        "dataset": row.dataset,
        "vault": row.place,
        "state": row.grade,
        "snapshot": row.snapshot or None,
        "last_success": _time(row.success),
        "archives": row.archives,
        "stored_bytes": row.stored,
        "chain_length": row.chain,
        "last_verified": _time(row.verified),
        "last_proven_restorable": _time(row.restored),
        "remarks": [_remark(remark) for remark in row.remarks],
    }


def _place_document(place: PlaceRow) -> dict[str, Any]:
    return {
        "vault": place.place,
        "address": place.address,
        "id": place.vault or None,
        "state": place.grade,
        "reached": place.reached,
        "archives": place.archives if place.reached else None,
        "stored_bytes": place.stored if place.reached else None,
        "archives_to_prune": place.spare if place.reached else None,
        "remarks": [_remark(remark) for remark in place.remarks],
    }


def _remark(remark: Remark) -> dict[str, Any]:
    return {"state": remark.grade, "text": remark.text}


def _time(seconds: int) -> dict[str, Any] | None:
    return {"unix": seconds, "utc": utc_text(seconds)} if seconds else None
