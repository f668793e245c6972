"""Catching a host that lies, still without a key.

A host that has lost an object can keep its SHA-256 and answer with that for ever. It
cannot answer for a nonce that it had never seen. So while an object is sealed, and
its bytes are at hand, the sender hashes some of them behind a secret random nonce
and keeps nonce and hash; later it tells the nonce and compares.

``challenges.jsonl`` in the vault's state folder is the journal: a line for each
challenge, and a line with the nonces that are spent, which is on the disk before
they are told. Nothing is ever taken out of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from standfast.backup.audit_plan import Challenge, choose
from standfast.backup.folders import drop_cut_line, sync_folder
from standfast.backup.model import archive_folder
from standfast.backup.proof import COMMITTED, DAMAGE, DISTRUST, Finding
from standfast.errors import DamagedError, ExitStatus, StandfastError
from standfast.units import KIB

if TYPE_CHECKING:
    import random  # noqa: TID251 - the type of an argument
    from collections.abc import Iterable, Sequence

    from standfast.backup.proof import Trust
    from standfast.backup.state import VaultState
    from standfast.backup.vault import Vault

_NONCE_BYTES = 16
# SHA-256 once more is up to a third of what sealing an object costs; one in ten
# keeps it under 5 % of a send. Small ones cost nothing that could be felt.
ONE_OF = 10
SMALL_BYTES = 256 * KIB
MOST_OF_AN_ARCHIVE = 8
JOURNAL = "challenges.jsonl"


class Sampler:
    """Makes challenges of the objects of one archive while they are sealed.

    One object in ten, at a random place in each ten, and every small one, until there
    are eight; from then on each further one takes a random one's place with the
    probability that keeps all equally likely (reservoir sampling).

    Args:
        archive: the archive's id.
        chance: draws the sample; a host must not be able to guess it.
    """

    def __init__(self, archive: str, chance: random.Random | None = None) -> None:
        self._archive = archive
        self._chance = chance or secrets.SystemRandom()
        self._lock = threading.Lock()
        self._picked = self._chance.randrange(ONE_OF)
        self._large = 0
        self._drawn = 0
        self._kept: dict[int, Challenge] = {}

    def see(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Make a challenge of an object, if it is drawn; for any thread."""
        with self._lock:
            place = self._draw(len(data))
        if place is None:
            return
        nonce = secrets.token_hex(_NONCE_BYTES)
        digest = hashlib.sha256(nonce.encode())
        digest.update(data)
        challenge = Challenge(self._archive, name, nonce, digest.hexdigest())
        with self._lock:
            self._kept[place] = challenge

    def challenges(self) -> list[Challenge]:
        """Return what was made."""
        return [self._kept[place] for place in sorted(self._kept)]

    def _draw(self, size: int) -> int | None:
        """Return which place an object takes, or None."""
        if size > SMALL_BYTES:
            turn = self._large % ONE_OF
            self._large += 1
            drawn = turn == self._picked
            if turn == ONE_OF - 1:
                self._picked = self._chance.randrange(ONE_OF)
            if not drawn:
                return None
        self._drawn += 1
        if self._drawn <= MOST_OF_AN_ARCHIVE:
            return self._drawn - 1
        place = self._chance.randrange(self._drawn)
        return place if place < MOST_OF_AN_ARCHIVE else None


class Journal:
    """The challenges of a vault, and which are spent."""

    def __init__(self, state: VaultState) -> None:
        self._state = state
        self._path = state.folder / JOURNAL

    def add(self, challenges: Iterable[Challenge]) -> None:
        """Keep new challenges."""
        with self._state.locked():
            self._append([vars(challenge) for challenge in challenges])

    def unspent(self) -> list[Challenge]:
        """Return the challenges that nobody has been told.

        Raises:
            DamagedError: a line that is not the last cannot be read.
        """
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StandfastError(
                f"cannot read {self._path}: {error.strerror}"
            ) from None
        found: dict[str, Challenge] = {}
        spent: set[str] = set()
        # What stands behind the last line feed was cut by a power failure.
        for number, line in enumerate(lines[:-1], 1):
            try:
                document = json.loads(line)
                if "spent" in document:
                    spent.update(document["spent"])
                else:
                    challenge = Challenge(**document)
                    found[challenge.nonce] = challenge
            except (ValueError, TypeError):
                raise DamagedError(
                    f"{self._path} is damaged in line {number}"
                ) from None
        return [c for nonce, c in found.items() if nonce not in spent]

    def spend(
        self, names: Iterable[str], count: int, chance: random.Random
    ) -> tuple[list[Challenge], list[Challenge]]:
        """Choose challenges and mark them spent, on the disk before this returns.

        Args:
            names: ids of archives that may be asked for.
            count: how many.
            chance: draws them.

        Returns:
            The chosen ones, and all that are left for these archives.
        """
        wanted = set(names)
        with self._state.locked():
            able = [c for c in self.unspent() if c.archive in wanted]
            chosen = choose(able, count, chance)
            if chosen:
                self._append([{"spent": [c.nonce for c in chosen]}])
        gone = {challenge.nonce for challenge in chosen}
        return chosen, [c for c in able if c.nonce not in gone]

    def _append(self, documents: Sequence[dict[str, object]]) -> None:
        data = b"".join(json.dumps(d).encode() + b"\n" for d in documents)
        if not data:
            return
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            drop_cut_line(fd)
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_folder(self._path.parent)


@dataclass
class AuditReport:
    """What an audit found.

    Attributes:
        asked: the challenges that were spent.
        left: those that remain.
        findings: what is wrong with the vault, the answers' part last.
    """

    asked: list[Challenge] = field(default_factory=list)
    left: list[Challenge] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def status(self) -> ExitStatus:
        """Return the exit status: distrust outweighs damage."""
        grades = {finding.grade for finding in self.findings}
        if DISTRUST in grades:
            return ExitStatus.NOT_TRUSTED
        return ExitStatus.DAMAGED if DAMAGE in grades else ExitStatus.DONE


def audit(vault: Vault, trust: Trust, count: int, chance: random.Random) -> AuditReport:
    """Spend one audit: have ``count`` objects hashed behind nonces never told before.

    The listing and the signatures are judged as well. Challenges of archives that
    were rightly removed are not used.

    Raises:
        StandfastError: there is no challenge for what the vault holds.
        StoreError: the far end could not answer; the challenges are spent all the same.
    """
    survey, _ = vault.survey(trust)
    whole = [a.id for a in survey.archives if a.standing == COMMITTED]
    report = AuditReport(findings=survey.all_findings())
    report.asked, report.left = Journal(vault.state).spend(whole, count, chance)
    if not report.asked:
        raise StandfastError(
            f"no audit is left for {vault.address} on this machine",
            hint="each send makes some; `verify --fetch` needs none",
        )
    names = {c.nonce: f"{archive_folder(c.archive)}/{c.object}" for c in report.asked}
    asked = [(c.nonce, names[c.nonce]) for c in report.asked]
    answers = dict(vault.store.digests_after(asked))
    for challenge in report.asked:
        name = names[challenge.nonce]
        if name not in answers:
            text = "the far end gave no hash of it"
        elif answers[name] != challenge.sha256:
            text = "the far end does not have the bytes that were sent"
        else:
            continue
        report.findings.append(Finding(name, DAMAGE, text))
    return report
