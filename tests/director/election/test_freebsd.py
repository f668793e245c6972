"""FreeBSD's own CARP: what it says, and what we tell it, exactly once."""

from __future__ import annotations

import asyncio
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from standfast.clock import SystemClock
from standfast.director.election.freebsd import (
    DEMOTION,
    SKEW_MAX,
    FreebsdCarp,
    Note,
    NoteFile,
    judge,
    plan_demotion,
    plan_ranks,
    prio_of,
    settle,
    skew_of,
)
from standfast.director.election.freebsd_output import Vhid, sysctls, vhids
from standfast.director.election.model import ElectionError, Role
from standfast.host import Result
from standfast.testing.host import Line, ScriptedHost

if TYPE_CHECKING:
    from collections.abc import Sequence

CAPTURES = ROOT / "tests" / "captures"


@pytest.mark.parametrize(
    "path", sorted(CAPTURES.glob("*-ifconfig-*.json")), ids=lambda path: path.stem
)
def test_ifconfig_is_read_in_each_release(path: Path) -> None:
    capture = json.loads(path.read_text())
    expected = [
        Vhid(
            **(
                {k: v for k, v in one.items() if k != "state"}
                | {"role": Role[one["state"]], "addresses": tuple(one["addresses"])}
            )
        )
        for one in capture["expect"]
    ]

    assert capture["how"] in ("captured", "transcribed", "synthesized")
    assert expected == vhids(capture["stdout"])


@pytest.mark.parametrize(
    "path", sorted(CAPTURES.glob("*-sysctl-carp.json")), ids=lambda path: path.stem
)
def test_sysctl_is_read_in_each_release(path: Path) -> None:
    capture = json.loads(path.read_text())
    values = sysctls(capture["stdout"])

    assert capture["expect"] == {name: values[name] for name in capture["expect"]}


RANKS = st.integers(min_value=0, max_value=254)


@given(RANKS, RANKS)
def test_a_better_rank_never_advertises_slower(one: int, other: int) -> None:
    """The map is monotone, and only the unfit reach the kernel's cut."""
    if one > other:
        assert skew_of(one) <= skew_of(other)
        assert prio_of(one) >= prio_of(other)
    assert (one == 0) == (skew_of(one) == SKEW_MAX)
    assert 1 <= prio_of(one) <= 254


@given(RANKS, RANKS, st.sampled_from(["carp", "vrrp"]))
def test_a_rank_is_told_once(before: int, rank: int, kind: Any) -> None:
    """What is true already needs no command."""
    one = Vhid("em0", 1, kind, Role.BACKUP, 1, skew_of(before), prio_of(before), 100)
    commands = plan_ranks([one], rank)
    value = (skew_of, prio_of)[kind == "vrrp"]
    name = ("advskew", "vrrpprio")[kind == "vrrp"]

    if value(before) == value(rank):
        assert [] == commands
    else:
        assert [("ifconfig", "em0", "vhid", "1", name, str(value(rank)))] == commands


def test_a_unicast_peer_is_named_again() -> None:
    """From 14 on ifconfig sets the peer to multicast in every call that omits it."""
    one = Vhid("em0", 7, "carp", Role.MASTER, 1, 50, peer="192.0.2.2", peer6="ff02::12")

    assert [
        ("ifconfig", "em0", "vhid", "7", "advskew", "0", "peer", "192.0.2.2")
    ] == plan_ranks([one], 254)


@dataclass
class Kernel:
    """A demotion that adds what is written, with other contributors."""

    level: int = 0

    def write(self, delta: str) -> None:
        self.level += int(delta)


@given(
    st.lists(
        st.tuples(
            st.booleans(),  # whether we want to leave
            st.sampled_from(["whole", "before the sysctl", "after the sysctl"]),
            st.sampled_from([0, 0, 240, -240]),  # what the kernel adds by itself
        ),
        max_size=12,
    )
)
def test_the_demotion_is_never_added_twice(steps: list[tuple[bool, str, int]]) -> None:
    """However often the daemon dies, between note and sysctl too."""
    kernel, note, others = Kernel(), Note(), 0
    for leave, death, foreign in steps:
        wanted = DEMOTION if leave else 0
        kept, delta = plan_demotion(note, kernel.level, wanted)
        note = kept
        if delta and death != "before the sysctl":
            kernel.write(delta)
            if death == "whole":
                note = settle(note, kernel.level)
                assert wanted == note.ours
        # A death and a change by the kernel in one moment cannot be told apart.
        if death == "whole" or not delta:
            kernel.level += foreign
            others += foreign
        assert kernel.level - others in (0, DEMOTION)
    kept, delta = plan_demotion(note, kernel.level, 0)
    if delta:
        kernel.write(delta)
    assert others == kernel.level


@given(st.integers(-500, 500), st.integers(-500, 500))
def test_in_doubt_nothing_is_taken_away(level: int, seen: int) -> None:
    """If it is not sure that we added, we did not: the node never looks too fit."""
    due = Note(0, DEMOTION, seen)
    settled = settle(due, level)

    assert (DEMOTION if level == seen + DEMOTION else 0) == settled.ours


@given(st.integers(), st.integers(), st.integers())
def test_a_note_survives_a_restart(ours: int, following: int, seen: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        notes = NoteFile(Path(folder) / "demotion")
        notes.save(Note(ours, following, seen))

        assert Note(ours, following, seen) == notes.load()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ours": "x"}', '{"other": 1}'])
def test_a_note_that_does_not_read_is_blank(tmp_path: Path, text: str) -> None:
    path = tmp_path / "demotion"
    path.write_text(text)

    assert Note() == NoteFile(path).load()


def test_a_split_group_is_no_master() -> None:
    """Half the addresses here and half there serve nobody."""
    one = Vhid("em0", 1, "carp", Role.MASTER)
    two = Vhid("em1", 2, "carp", Role.BACKUP)

    assert (
        Role.BACKUP,
        "the kernel is master of 1@em0 only, not of all: 1@em0, 2@em1",
    ) == judge([one, two])
    assert Role.MASTER is judge([one])[0]
    assert Role.INIT is judge([two, Vhid("em1", 3, "carp", Role.INIT)])[0]


@dataclass
class FreebsdMachine(ScriptedHost):
    """A kernel with one vhid on each interface, and a peer that preempts it."""

    skews: dict[str, int] = field(default_factory=lambda: {"em0": 100, "em1": 100})
    kernel: Kernel = field(default_factory=Kernel)
    peer_skew: int = 60
    preempt: int = 1
    commands: list[str] = field(default_factory=list)
    name: str = "a FreeBSD"

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",  # noqa: ARG002
        ok: Sequence[int] = (0,),  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002
    ) -> Result:
        words = list(argv)
        if words == ["sysctl", "net.inet.carp"]:
            text = (
                f"net.inet.carp.demotion: {self.kernel.level}\n"
                f"net.inet.carp.preempt: {self.preempt}\nnet.inet.carp.allow: 1\n"
            )
            return Result(tuple(argv), 0, text.encode(), "")
        if words[0] == "ifconfig" and len(words) == 2:
            return Result(tuple(argv), 0, self._ifconfig(words[1]).encode(), "")
        self.commands.append(" ".join(argv))
        if words[0] == "sysctl":
            self.kernel.write(words[1].partition("=")[2])
        else:
            self.skews[words[1]] = int(words[words.index("advskew") + 1])
        return Result(tuple(argv), 0, b"", "")

    def _ifconfig(self, interface: str) -> str:
        skew = min(self.skews[interface] + self.kernel.level, SKEW_MAX)
        state = "MASTER" if skew < self.peer_skew else "BACKUP"
        vhid = {"em0": 1, "em1": 2}[interface]
        return (
            f"{interface}: flags=8943<UP> metric 0 mtu 1500\n"
            f"\tcarp: {state} vhid {vhid} advbase 1 advskew {self.skews[interface]}\n"
        )


GROUP = (("em0", 1), ("em1", 2))


class MemoryNotes:
    def __init__(self) -> None:
        self.note = Note()

    def load(self) -> Note:
        return self.note

    def save(self, note: Note) -> None:
        self.note = note


async def until(role: Role, election: FreebsdCarp) -> None:
    async with asyncio.timeout(5):
        while election.role is not role:  # noqa: ASYNC110 - as a caller sees it
            await asyncio.sleep(0.01)


def test_a_rank_moves_the_kernel_and_is_seen() -> None:
    """Fit: master. Unfit: demoted, backup. Fit again: the demotion is taken back."""
    machine, notes = FreebsdMachine(), MemoryNotes()

    async def scenario() -> list[Role]:
        election = FreebsdCarp(machine, GROUP, notes, SystemClock())
        seen: list[Role] = []

        async def listen() -> None:
            async for change in election.events():
                seen.append(change.role)  # noqa: PERF401 - read while it runs

        listener = asyncio.create_task(listen())
        await asyncio.sleep(0)
        election.set_rank(254, "all backends are up")
        await election.start()
        await until(Role.MASTER, election)
        assert {"em0": 0, "em1": 0} == machine.skews
        election.set_rank(0, "no backend is up")
        await until(Role.BACKUP, election)
        assert (DEMOTION, DEMOTION) == (machine.kernel.level, notes.note.ours)
        election.set_rank(254, "all backends are up")
        await until(Role.MASTER, election)
        assert (0, 0) == (machine.kernel.level, notes.note.ours)
        await election.stop(handover=False)
        await listener
        return seen

    roles = [Role.BACKUP, Role.MASTER, Role.BACKUP, Role.MASTER]
    assert roles == asyncio.run(scenario())


def test_a_restarted_daemon_touches_nothing_before_it_has_a_rank() -> None:
    """What the one before set stands until the backends have been looked at."""
    machine = FreebsdMachine(skews={"em0": 0, "em1": 0})

    async def scenario() -> Role:
        election = FreebsdCarp(machine, GROUP, MemoryNotes(), SystemClock())
        await election.start()
        await asyncio.sleep(0.5)
        await election.stop(handover=False)
        return election.role

    assert Role.MASTER is asyncio.run(scenario())
    assert [] == machine.commands


def test_an_idle_election_runs_no_command() -> None:
    """Nothing is written while nothing changes, whatever the number of rounds."""
    machine = FreebsdMachine()

    async def scenario() -> None:
        election = FreebsdCarp(machine, GROUP, MemoryNotes(), SystemClock())
        election.set_rank(254, "fit")
        await election.start()
        await until(Role.MASTER, election)
        told = len(machine.commands)
        await asyncio.sleep(0.7)
        assert told == len(machine.commands)
        await election.stop(handover=False)

    asyncio.run(scenario())
    assert 2 == len(machine.commands)


def test_a_clean_stop_hands_over_and_a_new_daemon_takes_the_demotion_back() -> None:
    machine, notes = FreebsdMachine(), MemoryNotes()

    async def life(rank: int, *, handover: bool) -> Role:
        election = FreebsdCarp(machine, GROUP, notes, SystemClock())
        election.set_rank(rank, "fit")
        await election.start()
        await until(Role.MASTER, election)
        await election.stop(handover=handover)
        return election.role

    assert Role.BACKUP is asyncio.run(life(254, handover=True))
    assert DEMOTION == machine.kernel.level
    assert Role.MASTER is asyncio.run(life(254, handover=False))
    assert 0 == machine.kernel.level


@pytest.mark.parametrize("death", ["before", "after"])
def test_a_death_at_the_sysctl_is_put_right_by_the_next_daemon(death: str) -> None:
    """The note comes first; whether the kernel took the sum is read from the sum."""

    class Deadly(FreebsdMachine):
        armed = True

        def run(self, argv: Sequence[str], **keywords: Any) -> Result:
            if self.armed and "demotion=" in argv[1]:
                self.armed = False
                if death == "after":
                    super().run(argv, **keywords)
                raise MemoryError("the daemon dies here")
            return super().run(argv, **keywords)

    machine, notes = Deadly(skews={"em0": 0, "em1": 0}), MemoryNotes()

    async def first() -> None:
        election = FreebsdCarp(machine, GROUP, notes, SystemClock())
        election.set_rank(0, "unfit")
        await election.start()
        await asyncio.sleep(0.1)
        await election.stop(handover=False)

    async def second(rank: int, role: Role) -> None:
        election = FreebsdCarp(machine, GROUP, notes, SystemClock())
        election.set_rank(rank, "anew")
        await election.start()
        await asyncio.sleep(0.1)
        await until(role, election)
        await election.stop(handover=False)

    with pytest.raises(MemoryError):
        asyncio.run(first())
    assert (0, DEMOTION) == (notes.note.ours, notes.note.following)
    asyncio.run(second(0, Role.BACKUP))
    assert DEMOTION == machine.kernel.level
    asyncio.run(second(254, Role.MASTER))
    assert 0 == machine.kernel.level


def test_without_preempt_nothing_starts() -> None:
    """A rank that cannot move the address must not pretend to."""
    machine = FreebsdMachine(preempt=0)

    async def scenario() -> None:
        await FreebsdCarp(machine, GROUP, MemoryNotes(), SystemClock()).start()

    with pytest.raises(ElectionError, match="preempt is not 1"):
        asyncio.run(scenario())


def test_a_missing_vhid_is_an_error_with_its_name() -> None:
    host = ScriptedHost(
        [
            Line(
                ("sysctl", "net.inet.carp"),
                0,
                "net.inet.carp.preempt: 1\nnet.inet.carp.allow: 1\n",
                "",
            ),
            Line(("ifconfig", "em0"), 0, "em0: flags=8843<UP> metric 0\n", ""),
        ]
    )

    async def scenario() -> None:
        group = (("em0", 9),)
        await FreebsdCarp(host, group, MemoryNotes(), SystemClock()).start()

    with pytest.raises(ElectionError, match="no vhid 9@em0"):
        asyncio.run(scenario())
