"""``standfast backup marks list`` and ``marks release``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.backup.marks import find_marks, find_properties, release
from standfast.backup.model import is_archive_id
from standfast.backup.state import all_records
from standfast.console import table
from standfast.errors import UsageError
from standfast.zfs.listing import list_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.backup.marks import Found
    from standfast.cli.session import Session


def list_marks(session: Session) -> int:
    """Show our bookmarks, holds and properties, and no one else's."""
    _show(session, _of_vault(session, _find(session)), "")
    return 0


def release_marks(session: Session) -> int:
    """Take our marks for one vault away; its next send may be a full one."""
    if session.arguments.vault is None:
        raise UsageError(
            "which vault's marks?", hint="pass --vault VAULT, an address or an id"
        )
    marks = _of_vault(session, _find(session))
    if not session.arguments.dry_run:
        release(session.host, marks)
    _show(
        session, marks, "would release " if session.arguments.dry_run else "released "
    )
    return 0


def _find(session: Session) -> list[Found]:
    roots = session.arguments.datasets
    listing = list_tree(session.host, roots)
    properties = find_properties(session.host, roots)
    vaults = {record.vault for record in all_records(session.base, session.clock)}
    vaults |= {mark.vault for mark in properties}
    return [*find_marks(session.host, listing, sorted(vaults)), *properties]


def _of_vault(session: Session, marks: Sequence[Found]) -> list[Found]:
    wanted = session.arguments.vault
    if wanted is None:
        return list(marks)
    if not is_archive_id(wanted):
        wanted = session.vault().info.vault
    return [mark for mark in marks if wanted.startswith(mark.vault)]


def _show(session: Session, marks: Sequence[Found], verb: str) -> None:
    document = {
        "marks": [
            {
                "kind": mark.kind,
                "name": mark.name,
                "vault": mark.vault,
                "archive": mark.archive or None,
                "guid": str(mark.guid) if mark.guid else None,
            }
            for mark in marks
        ]
    }
    rows = [
        [verb + mark.kind, mark.name, mark.vault[:8], mark.archive[:12] or "-"]
        for mark in marks
    ]
    text = table(["MARK", "ON", "VAULT", "ARCHIVE"], rows) if rows else "no marks"
    session.console.result(document, text)
