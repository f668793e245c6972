"""What a pruning machine has seen of a vault: ``seen.json`` in its state folder.

Retention goes by when an archive was first seen here, since what a sender signs of
its time may be a lie; and what was seen once must be there the next time, unless a
removal says otherwise.

An archive that was not there at one look and is there at the next came in between.
The time that its sender signed is taken as far as it lies in between, and cut to it
where it does not; the order within a look is the sender's sequence. At the first look
there is no "before": such an archive has no time, and no policy drops it, until the
owner vouches once for the signed times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from standfast.backup.model import FORMAT, decode, encode
from standfast.backup.proof import COMMITTED
from standfast.backup.removals import Head  # noqa: TC001 - read at run time
from standfast.backup.state import COMMITTED as SENT_WHOLE
from standfast.backup.state import Sent, write_private
from standfast.backup.sums import NONE
from standfast.errors import StandfastError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from standfast.backup.proof import Archive, Survey
    from standfast.backup.state import VaultState


# A clock that is set right by ntp steps back a little, and nothing hangs on it.
CLOCK_SLACK = 300


class SeenArchive(msgspec.Struct, frozen=True, kw_only=True):
    """One archive, as it was when it was first seen whole.

    Attributes:
        sums: SHA-256 of its ``SHA256SUMS``.
        signer: the key that signed it.
        sequence: its number in that signer's sequence.
        base: as in its statement: an archive's id, ``none``, or empty.
        line: what it competes with for being kept; empty where that is not known.
        time: Unix seconds; None if it is not known when it came.
        order: counts up over all archives that were ever seen.
    """

    sums: str
    signer: str
    sequence: int
    base: str
    line: str
    time: int | None
    order: int


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """``seen.json``.

    Attributes:
        format: 1.
        order: the last that was given.
        number: the last number that was used for a removal from here.
        observed: signer's key -> Unix time of the last look that counted it.
        lines: signer's key and stated line -> what it competes with.
        archives: what was seen whole and has not been removed, by id.
        removals: pruner's key -> the last removal seen of it.
    """

    format: int = FORMAT
    order: int = 0
    number: int = 0
    observed: dict[str, int] = {}
    lines: dict[str, str] = {}
    archives: dict[str, SeenArchive] = {}
    removals: dict[str, Head] = {}

    def as_sent(self) -> dict[str, Sent]:
        """Return the archives in the form in which a ledger has them."""
        return {
            archive: Sent(
                archive=archive, sequence=seen.sequence, state=SENT_WHOLE,
                sums=seen.sums, name=seen.signer, time=seen.time or 0,
            )
            for archive, seen in self.archives.items()
        }  # fmt: skip


def read_seen(state: VaultState) -> Seen:
    """Return what was seen of a vault from here; nothing, if it never was looked at.

    Raises:
        DamagedError: the memory cannot be read.
    """
    path = state.folder / "seen.json"
    try:
        return decode(path.read_bytes(), Seen, str(path))
    except FileNotFoundError:
        return Seen()
    except OSError as error:
        raise StandfastError(f"cannot read {path}: {error.strerror}") from None


def save_seen(state: VaultState, seen: Seen) -> None:
    """Write the memory, whole or not at all."""
    with state.locked():
        write_private(state.folder / "seen.json", encode(seen))


def observe(
    seen: Seen,
    survey: Survey,
    signers: Mapping[str, str],
    now: int,
    *,
    vouched: bool = False,
) -> Seen:
    """Return the memory after a look at the vault. Pure.

    Args:
        seen: the memory before.
        survey: the judged vault.
        signers: the keys that counted -> the key that the same machine had before,
            or an empty string.
        now: Unix seconds by this machine's clock.
        vouched: the owner says that the signed times are good, for all that has none.

    Raises:
        StandfastError: the clock is far behind an earlier look.
    """
    latest = max(seen.observed.values(), default=now)
    if latest > now + CLOCK_SLACK:
        raise StandfastError(
            f"this machine's clock is {latest - now} s behind an earlier run of prune",
            hint="set the clock; nothing was removed",
        )
    now = max(now, latest)
    recorder = _Recorder(seen, signers, now, vouched=vouched)
    fresh = [a for a in survey.archives if a.standing == COMMITTED]
    if vouched:
        recorder.date(fresh)
    # A key that replaces another one comes after it, since its lines may go on there.
    for signer in sorted(signers, key=lambda key: (bool(signers[key]), key)):
        recorder.add([a for a in fresh if a.signer == signer])
    return msgspec.structs.replace(
        seen,
        order=recorder.order,
        observed=seen.observed | dict.fromkeys(signers, now),
        lines=recorder.lines,
        archives=_without_removed(recorder.archives, survey),
        removals=_latest_removals(seen, survey),
    )


class _Recorder:
    """Adds archives to a memory."""

    def __init__(
        self, seen: Seen, signers: Mapping[str, str], now: int, *, vouched: bool
    ) -> None:
        self.order = seen.order
        self.lines = dict(seen.lines)
        self.archives = dict(seen.archives)
        self._observed = seen.observed
        self._signers = signers
        self._now = now
        self._vouched = vouched

    def date(self, archives: Iterable[Archive]) -> None:
        """Give the signed times to what has none yet."""
        for archive in archives:
            known = self.archives.get(archive.id)
            if known is not None and known.time is None:
                assert archive.statement is not None
                time = max(0, min(archive.statement.time, self._now))
                self.archives[archive.id] = msgspec.structs.replace(known, time=time)

    def add(self, archives: Iterable[Archive]) -> None:
        """Record what is new of one signer."""
        new = [a for a in archives if a.id not in self.archives]
        last: int | None = None
        for archive in sorted(new, key=_sequence):
            statement = archive.statement
            assert statement is not None
            time = self._time(archive.signer, statement.time)
            if time is not None and not self._first_look(archive.signer):
                time = last = max(time, last or 0)
            self.order += 1
            self.archives[archive.id] = SeenArchive(
                sums=archive.sums_digest,
                signer=archive.signer,
                sequence=statement.sequence,
                base=statement.base,
                line=self._line(archive.signer, statement.line, statement.base),
                time=time,
                order=self.order,
            )

    def _first_look(self, signer: str) -> bool:
        return signer not in self._observed

    def _time(self, signer: str, signed: int) -> int | None:
        if self._first_look(signer):
            return max(0, min(signed, self._now)) if self._vouched else None
        return min(self._now, max(signed, self._observed[signer] + 1))

    def _line(self, signer: str, stated: str, base: str) -> str:
        """Return what an archive competes with.

        Nobody but the owner joins lines: only if he has said that one key replaces
        another does an increment on the old one's archive go on in its line, and only
        when it is the first that was seen of its own. Else whoever has a key could
        join two lines, and halve what is kept of them.
        """
        if stated in {"", NONE}:
            return ""
        key = f"{signer}/{stated}"
        if key not in self.lines:
            below = self.archives.get(base)
            replaced = self._signers.get(signer)
            goes_on = below is not None and below.line and below.signer == replaced
            self.lines[key] = below.line if below and goes_on else key
        return self.lines[key]


def _sequence(archive: Archive) -> tuple[int, str]:
    assert archive.statement is not None
    return archive.statement.sequence, archive.id


def _without_removed(
    archives: Mapping[str, SeenArchive], survey: Survey
) -> dict[str, SeenArchive]:
    gone = survey.removals.gone if survey.removals is not None else {}
    return {
        name: seen
        for name, seen in archives.items()
        if seen.sums not in {removed.sums for removed in gone.get(name, [])}
    }


def _latest_removals(seen: Seen, survey: Survey) -> dict[str, Head]:
    heads = dict(seen.removals)
    for key, head in (survey.removals.heads if survey.removals else {}).items():
        if key not in heads or head.number > heads[key].number:
            heads[key] = head
    return heads
