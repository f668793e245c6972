"""FreeBSD's own CARP (from 15 also VRRPv3), told how fit this node is.

The kernel elects, moves the address and goes on doing so when this daemon is dead.
We only turn a rank into ``advskew`` or ``vrrpprio``, and ``net.inet.carp.demotion``
into "leave now"; both as deltas that are empty when nothing is to do. Roles are read
from ifconfig. It needs ``net.inet.carp.preempt=1`` on every node: without it a
better node never takes over while the worse one lives.

Never run on FreeBSD; parsers stand on captured output (tests/captures), the rest on
sys/netinet/ip_carp.c and sbin/ifconfig/carp.c as docs/director-freebsd.md says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from standfast.director.election.broadcast import Broadcast
from standfast.director.election.freebsd_output import (
    MULTICAST,
    Vhid,
    sysctls,
    vhids,
)
from standfast.director.election.model import (
    RANK_HIGHEST,
    RANK_UNFIT,
    ElectionError,
    Role,
    RoleChange,
)
from standfast.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from standfast.clock import Clock
    from standfast.host import Host

# CARP_MAXSKEW: what advskew and demotion together are cut to.
SKEW_MAX = 240
# Above the cut with any advskew. Odd, so that it can be told from the kernel's own
# contributions, which are 240 each by default.
DEMOTION = 251
POLL_S = 0.2
COMMAND_TIMEOUT_S = 5.0
# How long a clean stop waits for the kernel to let go. A demotion is advertised at
# once, and a peer that preempts answers at once.
HANDOVER_S = 3.0
# Of net.inet.carp: what must be 1, and how to make it so.
SETTINGS = {
    "allow": "sysctl net.inet.carp.allow=1",
    "preempt": "sysctl net.inet.carp.preempt=1, on every director",
}


@dataclass(frozen=True)
class Note:
    """What we added to the kernel's demotion, kept across restarts of the daemon.

    Writing the sysctl adds, and reading it gives everybody's sum, so only a note
    tells our part. It is written before the sysctl; ``seen`` then tells whether the
    daemon died before or after (opnsense/core#10901 is what happens without).

    Attributes:
        ours: what we have added.
        following: what it shall be next; equal to ``ours`` when nothing is due.
        seen: the sum that was read just before.
    """

    ours: int = 0
    following: int = 0
    seen: int = 0


class Notes(Protocol):
    """Where the note lies."""

    def load(self) -> Note:
        """Return the note; a blank one when there is none."""
        ...

    def save(self, note: Note) -> None:
        """Keep the note."""
        ...


class NoteFile:
    """A note in a file.

    It must lie where a reboot clears it, as /var/run is: a reboot clears the
    kernel's demotion as well.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Note:
        """Return the note; a blank one when there is none, or none that reads."""
        try:
            values = json.loads(self._path.read_text())
            return Note(**{name: int(value) for name, value in values.items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return Note()

    def save(self, note: Note) -> None:
        """Write the note and put it in place at once."""
        beside = self._path.with_name(self._path.name + ".new")
        beside.write_text(json.dumps(asdict(note)))
        beside.replace(self._path)


def settle(note: Note, level: int) -> Note:
    """Return the note as it is after a daemon may have died beside it.

    Only when the sum moved by exactly what was due do we hold it for done: to take
    away what was never added would make this node look fitter than it is.
    """
    due = note.following - note.ours
    ours = note.following if level - note.seen == due else note.ours
    return Note(ours, ours, level)


def skew_of(rank: int) -> int:
    """Return the advskew of a rank: 0 for the best, 240 for the unfit."""
    if rank <= RANK_UNFIT:
        return SKEW_MAX
    return (RANK_HIGHEST - min(rank, RANK_HIGHEST)) * (SKEW_MAX - 1) // RANK_HIGHEST


def prio_of(rank: int) -> int:
    """Return the VRRP priority of a rank; 0 would say "I am leaving"."""
    return max(1, min(rank, RANK_HIGHEST))


def plan_ranks(held: Sequence[Vhid], rank: int) -> list[tuple[str, ...]]:
    """Return the commands that make a rank true; empty when it is already."""
    return [command for one in held if (command := _rank_command(one, rank))]


def _rank_command(one: Vhid, rank: int) -> tuple[str, ...]:
    words = ("ifconfig", one.interface, "vhid", str(one.vhid))
    if one.kind == "vrrp":
        prio = prio_of(rank)
        return () if one.prio == prio else (*words, "vrrpprio", str(prio))
    skew = skew_of(rank)
    if one.advskew == skew:
        return ()
    # From 14 on each call of ifconfig sets both peers, to multicast unless named.
    peers = [
        word
        for name, value, usual in zip(
            ("peer", "peer6"), (one.peer, one.peer6), MULTICAST, strict=True
        )
        if value not in ("", usual)
        for word in (name, value)
    ]
    return (*words, "advskew", str(skew), *peers)


def plan_demotion(note: Note, level: int, wanted: int) -> tuple[Note, str]:
    """Return the note to keep before, and the delta to write; empty for none."""
    now = settle(note, level)
    if now.ours == wanted:
        return now, ""
    return Note(now.ours, wanted, level), str(wanted - now.ours)


class FreebsdCarp:
    """Steers the kernel's election of one group of vhids; see Election.

    The node holds the group only while it is master of every vhid in it.
    """

    def __init__(
        self,
        host: Host,
        group: Sequence[tuple[str, int]],
        notes: Notes,
        clock: Clock,
    ) -> None:
        """Name the group.

        Args:
            host: the machine.
            group: (interface, vhid) of each virtual host.
            notes: where to keep what we added to the demotion.
            clock: for the times of changes.
        """
        self._host = host
        self._group = tuple(group)
        self._notes = notes
        self._clock = clock
        self._role = Role.INIT
        # Until we are told, whatever a former daemon set stands: a restart is no
        # reason to move an address.
        self._rank: int | None = None
        self._due = asyncio.Event()
        self._changes = Broadcast()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.refused: Mapping[str, int] = {}
        self.problem = ""

    @property
    def role(self) -> Role:
        """What this node is now."""
        return self._role

    async def start(self) -> None:
        """Check the kernel's settings, then follow it; see Election."""
        values = await asyncio.to_thread(self._sysctls)
        for name, hint in SETTINGS.items():
            if values.get(name) != 1:
                raise ElectionError(
                    f"net.inet.carp.{name} is not 1", hint=f"{hint}; see sysctl.conf"
                )
        self._see(await asyncio.to_thread(self._held))
        self._task = asyncio.create_task(self._follow())

    def set_rank(self, rank: int, reason: str) -> None:  # noqa: ARG002 - the kernel takes no reasons
        """Say how fit this node is; see Election."""
        self._rank = rank
        self._due.set()

    def events(self) -> AsyncIterator[RoleChange]:
        """Return changes of role; see Election."""
        return self._changes.listen()

    async def stop(self, *, handover: bool) -> None:
        """Follow no more; with ``handover`` demote and wait for the kernel.

        The demotion stays until a daemon runs here again, so that the node does not
        come back by itself while nobody watches its backends.
        """
        # Not cancelled: a command that runs in its thread would go on beside ours.
        self._stopping = True
        self._due.set()
        if self._task is not None:
            await self._task
        if handover:
            await asyncio.to_thread(self._demote, DEMOTION)
            await self._until_left()
        self._changes.close()

    async def _until_left(self) -> None:
        for _ in range(int(HANDOVER_S / POLL_S)):
            self._see(await asyncio.to_thread(self._held))
            if self._role is not Role.MASTER:
                return
            await asyncio.sleep(POLL_S)

    async def _follow(self) -> None:
        while not self._stopping:
            self._due.clear()
            try:
                self._see(await asyncio.to_thread(self._apply))
                self.problem = ""
            except (CommandError, ElectionError, OSError) as error:
                # The kernel goes on without us; the next round tries again.
                self.problem = str(error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), POLL_S)

    def _apply(self) -> list[Vhid]:
        """Make the rank true: leaving first, skews after."""
        held = self._held()
        if self._rank is None:
            return held
        self._demote(DEMOTION if self._rank <= RANK_UNFIT else 0)
        commands = plan_ranks(held, self._rank)
        for command in commands:
            self._host.run(command, timeout=COMMAND_TIMEOUT_S)
        return self._held() if commands else held

    def _demote(self, wanted: int) -> None:
        kept = self._notes.load()
        note, delta = plan_demotion(kept, self._sysctls().get("demotion", 0), wanted)
        if not delta:
            if (note.ours, note.following) != (kept.ours, kept.following):
                self._notes.save(note)
            return
        self._notes.save(note)
        self._host.run(
            ("sysctl", f"net.inet.carp.demotion={delta}"), timeout=COMMAND_TIMEOUT_S
        )
        self._notes.save(Note(note.following, note.following, note.seen + int(delta)))

    def _sysctls(self) -> dict[str, int]:
        return _sysctls(self._host)

    def _held(self) -> list[Vhid]:
        return _held(self._host, self._group)

    def _see(self, held: Sequence[Vhid]) -> None:
        role, sentence = judge(held)
        if role is self._role:
            return
        self._role = role
        self._changes.tell(RoleChange(role, sentence, self._clock.monotonic()))


def missing(host: Host, group: Sequence[tuple[str, int]]) -> list[str]:
    """Return what of the kernel's settings stands in the way of a group.

    Raises:
        CommandError: the kernel was not to be asked.
        ElectionError: a vhid is missing.
    """
    values = _sysctls(host)
    _held(host, group)
    return [
        f"net.inet.carp.{name} is not 1: {hint}"
        for name, hint in SETTINGS.items()
        if values.get(name) != 1
    ]


def _sysctls(host: Host) -> dict[str, int]:
    result = host.run(("sysctl", "net.inet.carp"), timeout=COMMAND_TIMEOUT_S)
    return sysctls(result.stdout.decode())


def _held(host: Host, group: Sequence[tuple[str, int]]) -> list[Vhid]:
    found: dict[tuple[str, int], Vhid] = {}
    for interface in dict.fromkeys(name for name, _ in group):
        result = host.run(("ifconfig", interface), timeout=COMMAND_TIMEOUT_S)
        for one in vhids(result.stdout.decode()):
            found[(one.interface, one.vhid)] = one
    absent = [f"{vhid}@{name}" for name, vhid in group if (name, vhid) not in found]
    if absent:
        raise ElectionError(
            f"there is no vhid {', '.join(absent)}",
            hint="give the interface its address with `vhid N` in rc.conf",
        )
    return [found[key] for key in group]


def judge(held: Sequence[Vhid]) -> tuple[Role, str]:
    """Return a group's role and the sentence for it.

    Part of the addresses is not the group: then the node is backup, and says so.
    """
    masters = [one for one in held if one.role is Role.MASTER]
    names = ", ".join(f"{one.vhid}@{one.interface}" for one in held)
    if len(masters) == len(held):
        return Role.MASTER, f"the kernel is master of {names}"
    if masters:
        own = ", ".join(f"{one.vhid}@{one.interface}" for one in masters)
        return Role.BACKUP, f"the kernel is master of {own} only, not of all: {names}"
    if any(one.role is Role.INIT for one in held):
        return Role.INIT, f"the kernel has not begun with all of {names}"
    return Role.BACKUP, f"the kernel is backup of {names}"
