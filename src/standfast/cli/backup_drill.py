"""``standfast backup drill``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from standfast.backup.drill import Driller, Proof, choose_parent, drill
from standfast.backup.drill_plan import Exercise, plan_drill
from standfast.backup.proof import COMMITTED
from standfast.backup.proven import DAMAGED, RESTORE, note_proven, read_proven
from standfast.backup.restore import manifests_of
from standfast.backup.scratch import Scratch, alone
from standfast.clock import utc_text
from standfast.errors import (
    DamagedError,
    ExitStatus,
    InterruptError,
    StandfastError,
    StoreError,
    UsageError,
)
from standfast.units import duration_text, parse_duration, size_text
from standfast.zfs.names import check_dataset

if TYPE_CHECKING:
    import argparse

    from standfast.backup.proof import Survey
    from standfast.backup.vault import Vault
    from standfast.cli.session import Session

_WORST = (ExitStatus.NOT_TRUSTED, ExitStatus.DAMAGED)


@dataclass(frozen=True)
class _Drilled:
    """What became of one exercise."""

    exercise: Exercise
    seconds: float
    proof: Proof | None = None
    error: StandfastError | None = None

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        way = self.exercise.way
        return {
            "dataset": self.exercise.name,
            "snapshot": way[-1].name if way else None,
            "guid": (way[-1].guid or None) if way else None,
            "archives": self.exercise.archives,
            "bytes": self.exercise.size,
            "how": self.proof.how if self.proof else None,
            "compared": self.proof.compared if self.proof else None,
            "error": self.error.message if self.error else None,
            "hint": (self.error.hint or None) if self.error else None,
            "status": int(self.error.status) if self.error else 0,
            "last_proven": self.exercise.last or None,
            "seconds": round(self.seconds, 3),
        }

    def line(self) -> str:
        """Return it as people read it."""
        if self.error is not None:
            text = f"FAILED: {self.exercise.name}: {self.error.message}"
            return f"{text}\n  {self.error.hint}" if self.error.hint else text
        assert self.proof is not None
        verb = {"received": "restored", "read": "read and checked"}[self.proof.how]
        compared = {
            "same": ", and is what the source has",
            "gone": "; the source no longer has that snapshot",
            "locked": "; the source's key is away, contents were not compared",
            "not compared": "",
        }[self.proof.compared]
        count = len(self.exercise.way)
        return (
            f"{verb}: {self.exercise.way[-1].name} from {count} archives, "
            f"{size_text(self.exercise.size)} in {duration_text(self.seconds)}"
            f"{compared}"
        )


def drill_vault(session: Session) -> int:
    """Prove datasets by restoring them, and remember when."""
    arguments = session.arguments
    _check(arguments)
    budget = parse_duration(arguments.budget) if arguments.budget else None
    vault = session.vault()
    identity = session.identity(vault)
    survey, _ = vault.survey(session.trust(vault))
    whole = [a for a in survey.archives if a.standing == COMMITTED]
    manifests, unread = manifests_of(vault, whole, identity)
    for archive, error in unread.items():
        session.console.note(f"{archive}: {error.message}")
    proven = read_proven(vault.state)
    exercises = plan_drill(survey.archives, manifests, proven, arguments.dataset)
    chosen = exercises[: arguments.sample]
    parent = _parent(session, chosen)
    if arguments.dry_run:
        _report_plan(session, vault, chosen, parent)
        return 0
    begun = session.clock.monotonic()
    done: list[_Drilled] = []
    scratch = None
    if parent:
        scratch = Scratch(session.host, session.clock, parent, vault.state)
    with alone(vault.state):
        for exercise in chosen:
            late = session.clock.monotonic() - begun
            if done and budget is not None and late > budget:
                break
            progress = session.console.progress(
                f"drilling {exercise.name}", exercise.size, session.clock
            )
            with progress.shown() as add:
                driller = Driller(
                    vault=vault,
                    identity=identity,
                    host=session.host,
                    scratch=scratch,
                    compare=not arguments.no_compare,
                    progress=add,
                )
                done.append(_one(session, driller, exercise))
            _remember(session, vault, survey, done[-1])
            session.console.result_line(done[-1].line())
    return _report(session, vault, done, exercises[len(done) :])


def _check(arguments: argparse.Namespace) -> None:
    if arguments.sample is not None and arguments.sample < 1:
        raise UsageError(f"not a number of datasets: {arguments.sample}")
    if arguments.scratch:
        check_dataset(arguments.scratch)


def _parent(session: Session, chosen: list[Exercise]) -> str:
    arguments = session.arguments
    if arguments.read:
        return ""
    if arguments.scratch:
        given: str = arguments.scratch
        return given
    parent = choose_parent(session.host, chosen)
    if not parent and chosen:
        session.console.note(
            "no pool of a source is on this machine: chains go through every check "
            "but the receiving; --scratch names a dataset to restore below"
        )
    return parent


def _one(session: Session, driller: Driller, exercise: Exercise) -> _Drilled:
    """Drill one dataset; what is wrong with it does not stop the others."""
    start = session.clock.monotonic()
    try:
        proof = drill(driller, exercise)
    except (InterruptError, StoreError):
        raise
    except StandfastError as error:
        return _Drilled(exercise, session.clock.monotonic() - start, error=error)
    return _Drilled(exercise, session.clock.monotonic() - start, proof)


def _remember(
    session: Session, vault: Vault, survey: Survey, drilled: _Drilled
) -> None:
    if vault.record is None:
        session.console.note("this machine does not know the vault: no date is kept")
        return
    present = {archive.id for archive in survey.archives}
    if drilled.proof is not None:
        kind, archives = RESTORE, drilled.exercise.archives
    elif isinstance(drilled.error, DamagedError):
        kind, archives = DAMAGED, drilled.exercise.archives[-1:]
    else:
        return
    note_proven(vault.state, kind, archives, session.clock.now(), present)


def _status(done: list[_Drilled]) -> ExitStatus:
    """Return the worst of what was found; distrust outweighs damage."""
    found = {one.error.status for one in done if one.error is not None}
    for status in _WORST:
        if status in found:
            return status
    return ExitStatus.FAILED if found else ExitStatus.DONE


def _report(
    session: Session, vault: Vault, done: list[_Drilled], left: list[Exercise]
) -> ExitStatus:
    status = _status(done)
    good = sum(one.proof is not None for one in done)
    document = {
        "vault": vault.info.vault,
        "address": vault.address,
        "ok": status == ExitStatus.DONE,
        "status": int(status),
        "drills": [one.document() for one in done],
        "left": [exercise.name for exercise in left],
    }
    text = f"{good} of {len(done)} proven restorable"
    if left:
        text += f"; {len(left)} left for another time"
    session.console.result(document, text if done else "the vault holds no archive")
    return status


def _report_plan(
    session: Session, vault: Vault, chosen: list[Exercise], parent: str
) -> None:
    document = {
        "vault": vault.info.vault,
        "dry_run": True,
        "below": parent or None,
        "plan": [
            {
                "dataset": exercise.name,
                "archives": exercise.archives,
                "bytes": exercise.size,
                "last_proven": exercise.last or None,
                "error": exercise.trouble.message if exercise.trouble else None,
            }
            for exercise in chosen
        ],
    }
    where = f"restore below {parent}" if parent else "read through every check"
    lines = [
        f"would {where}: {exercise.name}, {len(exercise.way)} archives, "
        f"{size_text(exercise.size)}, last proven "
        f"{utc_text(exercise.last) if exercise.last else 'never'}"
        for exercise in chosen
    ]
    session.console.result(document, "\n".join(lines or ["nothing to drill"]))
