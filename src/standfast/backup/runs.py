"""What the runs of a job have left: when each vault was last served, and what failed.

One file a job in the state folder, ``jobs/NAME.json``, written whole or not at all,
and ``jobs/NAME.lock``, held by flock(2) while the job runs: the lock ends with its
process, however that ends. What was really sent stands in each vault's ledger; this
is what ``status`` and the schedule go by.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

import msgspec

from standfast.backup.model import FORMAT, decode, encode
from standfast.backup.state import private_folder, write_private
from standfast.errors import LockedError, StandfastError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class DatasetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset in a vault.

    Attributes:
        success: Unix time at which a run last left the vault with the newest
            snapshot; 0 is never.
        snapshot: that snapshot, without its dataset.
        archive: the archive that ends with it.
        chain: how many archives since, and with, the last full one.
        error: why the latest run failed; empty if it did not.
    """

    success: int = 0
    snapshot: str = ""
    archive: str = ""
    chain: int = 0
    error: str = ""


class PlaceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A vault of a job.

    Attributes:
        vault: its id; empty until it was reached once.
        success: Unix time of the start of the last run that left nothing undone;
            0 is never.
        tried: Unix time of the start of the latest run.
        error: why the latest run failed as a whole; empty if it did not.
        datasets: by name.
    """

    vault: str = ""
    success: int = 0
    tried: int = 0
    error: str = ""
    datasets: dict[str, DatasetRecord] = msgspec.field(default_factory=dict)


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``jobs/NAME.json``.

    Attributes:
        format: 1.
        failing: whether the latest run failed, in whole or in part.
        error: what failed beside the vaults, such as a hook.
        places: by the vault's name in the configuration.
    """

    format: int = FORMAT
    failing: bool = False
    error: str = ""
    places: dict[str, PlaceRecord] = msgspec.field(default_factory=dict)


class Runs:
    """The memory of one job."""

    def __init__(self, base: Path, job: str) -> None:
        self._folder = base / "jobs"
        self._path = self._folder / f"{job}.json"
        self._lock = self._folder / f"{job}.lock"
        self._job = job

    def read(self) -> JobRecord:
        """Return what is remembered; a job that never ran has an empty record.

        Raises:
            DamagedError: the file holds something else.
            StandfastError: it cannot be read.
        """
        try:
            return decode(self._path.read_bytes(), JobRecord, str(self._path))
        except FileNotFoundError:
            return JobRecord()
        except OSError as error:
            raise StandfastError(
                f"cannot read {self._path}: {error.strerror}"
            ) from None

    def write(self, record: JobRecord) -> None:
        """Remember, whole or not at all.

        Raises:
            StandfastError: it cannot be written.
        """
        private_folder(self._folder)
        write_private(self._path, encode(record))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the job against other runs of it.

        Raises:
            LockedError: another run is under way.
        """
        private_folder(self._folder)
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError(
                    f"job {self._job} is being run by another process",
                    hint=f"it holds {self._lock} until it ends",
                ) from None
            yield
        finally:
            os.close(fd)
