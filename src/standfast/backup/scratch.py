"""The scratch dataset of a drill: made below another one, and always taken away.

It carries a property that says whose it is, and a name that is the same for every
drill of a vault from one memory. Only one of them is at work at a time, so what lies
there at its start was left by a dead one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.state import private_folder
from standfast.errors import CommandError, LockedError, UsageError
from standfast.units import MIB, size_text
from standfast.zfs.streams import exists

if TYPE_CHECKING:
    from collections.abc import Iterator

    from standfast.backup.state import VaultState
    from standfast.clock import Clock
    from standfast.host import Host

# A drill destroys nothing that does not carry it.
PROPERTY = "standfast:drill"
_TRIES = 20
_TRY_SECONDS = 0.5
# What ZFS needs besides the data: metadata, and room to destroy again.
_MARGIN = 64 * MIB


@contextlib.contextmanager
def alone(state: VaultState) -> Iterator[None]:
    """Hold the drill of a vault: what lies in its scratch is then a dead one's.

    Raises:
        LockedError: another drill of this vault is at work on this machine.
    """
    private_folder(state.folder)
    fd = os.open(state.folder / "drill", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise LockedError(
            "another drill of this vault is at work", hint="wait for it to end"
        ) from None
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Scratch:
    """Room for one restore at a time.

    Attributes:
        host: where zfs is.
        clock: for waiting until a dataset is no longer busy.
        parent: the dataset below which it is made.
        state: the memory of the vault that is drilled.
    """

    host: Host
    clock: Clock
    parent: str
    state: VaultState

    @property
    def name(self) -> str:
        """The dataset: one for this vault and this memory of it."""
        owner = f"{self.state.vault} {self.state.folder}".encode()
        mark = hashlib.sha256(owner).hexdigest()[:12]
        return f"{self.parent}/standfast-drill-{mark}"

    def check_room(self, size: int) -> None:
        """Refuse what might fill the pool.

        Raises:
            UsageError: fewer bytes are free than may come.
            CommandError: zfs cannot be asked.
        """
        argv = ["zfs", "get", "-Hp", "-o", "value", "available", self.parent]
        available = int(self.host.run(argv).stdout)
        if available < size + _MARGIN:
            raise UsageError(
                f"there is no room below {self.parent}: up to {size_text(size)} come "
                f"back, {size_text(available)} are free",
                hint="pass --scratch with a dataset of another pool, or --read",
            )

    @contextlib.contextmanager
    def made(self) -> Iterator[str]:
        """Make it, and take it away however the block ends; yields where to receive.

        Raises:
            UsageError: what has its name is not a drill's.
            CommandError: zfs failed.
        """
        self.remove()
        options = {
            PROPERTY: self.state.vault,
            "mountpoint": "none",
            "readonly": "on",
            "com.sun:auto-snapshot": "false",
        }
        words = [word for pair in options.items() for word in ("-o", "=".join(pair))]
        self.host.run(["zfs", "create", *words, self.name])
        try:
            yield f"{self.name}/back"
        finally:
            self.remove()

    def remove(self) -> None:
        """Destroy it, if it is there.

        Raises:
            UsageError: what has its name is not a drill's.
            CommandError: zfs refused for ten seconds.
        """
        if not exists(self.host, self.name):
            return
        argv = ["zfs", "get", "-Hp", "-o", "value", PROPERTY, self.name]
        if self.host.run(argv).stdout.decode().strip() != self.state.vault:
            raise UsageError(
                f"{self.name} is there and is not a drill's",
                hint="rename it, or pass another --scratch",
            )
        complaint = ""
        for _ in range(_TRIES):
            destroy = ["zfs", "destroy", "-r", self.name]
            result = self.host.run(destroy, ok=range(256))
            if result.code == 0:
                return
            complaint = result.complaint()
            self.clock.sleep(_TRY_SECONDS)
        raise CommandError(
            f"{self.name} could not be taken away: {complaint}",
            hint="the next drill tries again",
        )
