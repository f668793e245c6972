"""Rank, the order of a takeover, the hands that carry it out, and who is watched."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.director.election.carp import skew_of_rank
from standfast.director.election.external import ExternalElection
from standfast.director.election.hands import Hands, read_addresses
from standfast.director.election.model import ElectionError, Role
from standfast.director.election.none import NoElection
from standfast.director.election.rank import (
    Agreement,
    Fitness,
    RankPolicy,
    RankState,
    deserved_rank,
    next_review,
    step,
)
from standfast.director.election.takeover import Doing, leaving, taking
from standfast.director.election.watchdog import Watch, Watched, must_remove
from standfast.testing.loop import run_virtually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from standfast.director.election.model import IPAddress

VIP = IPv4Address("10.50.0.100")
VIP2 = IPv4Address("10.50.0.101")
POLICY = RankPolicy(preference=200, hold=10)

fitnesses = st.integers(0, 20).flatmap(
    lambda total: st.builds(
        Fitness,
        healthy=st.integers(0, total),
        total=st.just(total),
        loaded=st.sampled_from([True, False, None]),
        agreement=st.sampled_from(Agreement),
        willing=st.booleans(),
        holder=st.booleans(),
        unproved=st.sampled_from(["", "nobody answered"]),
    )
)


@given(fitnesses)
def test_rank_is_in_range_and_never_claims_what_could_not_be_told(
    fitness: Fitness,
) -> None:
    rank, reason = deserved_rank(POLICY, fitness)
    assert 0 <= rank <= POLICY.preference
    assert reason
    if fitness.loaded is not True or not fitness.willing:
        assert 0 == rank


@given(st.integers(1, 30), st.data())
def test_more_backends_are_never_worse(total: int, data: st.DataObject) -> None:
    fewer = data.draw(st.integers(0, total))
    more = data.draw(st.integers(fewer, total))
    ranks = [
        deserved_rank(POLICY, Fitness(n, total, loaded=True)) for n in (fewer, more)
    ]
    assert ranks[0][0] <= ranks[1][0]


@given(st.lists(st.tuples(st.floats(0, 30), fitnesses), max_size=20))
def test_a_rank_falls_at_once_and_rises_after_the_hold(
    facts: list[tuple[float, Fitness]],
) -> None:
    """At each moment the claim is at most what was deserved all through the hold."""
    state, now = RankState(), 0.0
    history: list[tuple[float, int]] = []
    for wait, fitness in facts:
        now += wait
        deserved, _ = deserved_rank(POLICY, fitness)
        history.append((now, deserved))
        state = step(POLICY, state, fitness, now)
        assert state.rank <= deserved
        assert (state.rank == 0) == (deserved == 0)
        if state.rank > 1:
            during = [d for at, d in history if at > now - POLICY.hold]
            assert min(during) >= state.rank
        review = next_review(POLICY, state)
        if review is not None:
            assert deserved == step(POLICY, state, fitness, review).rank


@pytest.mark.parametrize(("rank", "advskew"), [(254, 0), (1, 240), (0, None)])
def test_advskew_of_rank(rank: int, advskew: int | None) -> None:
    assert advskew == skew_of_rank(rank)


@pytest.mark.parametrize(
    ("on_difference", "agreement", "apart"),
    [
        ("alarm", Agreement.DIFFERENT, 200),
        ("alarm", Agreement.UNKNOWN, 200),
        ("yield", Agreement.DIFFERENT, 1),
        ("yield", Agreement.TABLE, 200),
        ("yield", Agreement.UNKNOWN, 200),
        ("refuse", Agreement.DIFFERENT, 0),
        ("refuse", Agreement.TABLE, 0),
        ("refuse", Agreement.UNKNOWN, 1),
        ("refuse", Agreement.SAME, 200),
    ],
)
def test_a_difference_keeps_addresses_from_moving(
    on_difference: Any, agreement: Agreement, apart: int
) -> None:
    """It is held against who would take them, never against who holds them."""
    policy = RankPolicy(on_difference=on_difference)
    ranks = [
        deserved_rank(policy, Fitness(3, 3, True, agreement, holder=holder))[0]
        for holder in (False, True)
    ]
    assert [apart, 200] == ranks


def test_a_takeover_that_was_not_proved_ranks_lowest() -> None:
    fitness = Fitness(3, 3, loaded=True, holder=True, unproved="nobody answered")
    assert (1, "nobody answered") == deserved_rank(POLICY, fitness)


def test_where_others_serve_beside_it_a_node_without_backends_is_unfit() -> None:
    fitness = Fitness(0, 3, loaded=True, holder=True)
    assert 1 == deserved_rank(POLICY, fitness)[0]
    assert 0 == deserved_rank(RankPolicy(bare=0), fitness)[0]


def test_the_order_of_taking_and_leaving() -> None:
    """Rules, address, neighbours, guard off, proof; guard on, address, flows."""
    wanted = (VIP, VIP2)
    steps = taking(wanted, frozenset({VIP}))
    assert [
        Doing.LOAD_RULES,
        Doing.ADD_ADDRESS,
        Doing.TELL_NEIGHBOURS,
        Doing.GUARD_OFF,
        Doing.VERIFY,
    ] == [s.doing for s in steps]
    assert (VIP2,) == steps[1].addresses
    assert [Doing.GUARD_ON, Doing.REMOVE_ADDRESS, Doing.FLUSH_FLOWS] == [
        s.doing for s in leaving(wanted, frozenset(wanted))
    ]
    assert [Doing.GUARD_ON] == [s.doing for s in leaving(wanted, frozenset())]
    assert all(s.why for s in steps)


class Recorder:
    """A card and a data plane that note what was asked, each taking 10 ms."""

    def __init__(self, broken: str = "") -> None:
        self.words: list[str] = []
        self.here: set[IPAddress] = set()
        self._broken = broken

    async def _note(self, word: str) -> None:
        await asyncio.sleep(0.01)
        if word == self._broken:
            raise ElectionError(f"{word} is broken")
        self.words.append(word)

    async def present(self) -> frozenset[IPAddress]:
        return frozenset(self.here)

    async def add(self, addresses: Sequence[IPAddress]) -> None:
        await self._note("add")
        self.here.update(addresses)

    async def remove(self, addresses: Sequence[IPAddress]) -> None:
        await self._note("remove")
        self.here.difference_update(addresses)

    async def load(self) -> None:
        await self._note("load")

    async def guard_on(self) -> None:
        await self._note("guard on")

    async def guard_off(self) -> None:
        await self._note("guard off")

    async def verify(self, addresses: tuple[IPAddress, ...]) -> None:
        assert (VIP,) == addresses
        await self._note("verify")

    async def flush(self) -> None:
        await self._note("flush")

    def tell(self, frames: Sequence[bytes]) -> None:
        assert 2 == len(frames)
        self.words.append("tell")

    def hands(self) -> Hands:
        return Hands(
            (VIP,), card=self, plane=self, tell=self.tell, mac=lambda: b"\2" * 6
        )


def test_hands_carry_the_plans_out() -> None:
    async def main() -> None:
        recorder = Recorder()
        hands = recorder.hands()
        hands.take()
        await asyncio.sleep(0.05)
        assert ["load", "add", "tell", "guard off", "verify"] == recorder.words
        await asyncio.sleep(2)
        assert 3 == recorder.words.count("tell")
        recorder.words.clear()
        hands.leave()
        assert await hands.left()
        assert ["guard on", "remove", "flush"] == recorder.words
        await hands.close()

    run_virtually(main())


def test_the_latest_wish_wins_between_two_steps() -> None:
    """A takeover that is called off never takes the guard off."""

    async def main() -> None:
        recorder = Recorder()
        hands = recorder.hands()
        hands.take()
        await asyncio.sleep(0.015)
        hands.leave()
        assert await hands.left()
        assert ["load", "add", "guard on", "remove", "flush"] == recorder.words
        await hands.close()

    run_virtually(main())


@pytest.mark.parametrize("broken", ["load", "add", "guard off"])
def test_a_takeover_without_its_vital_steps_fails(broken: str) -> None:
    async def main() -> None:
        recorder = Recorder(broken)
        hands = recorder.hands()
        said: list[str] = []
        hands.failed = said.append
        hands.take()
        await asyncio.sleep(0.1)
        assert [f"{broken} is broken"] == said
        assert hands.holds is None
        await hands.close()

    run_virtually(main())


def test_an_address_leaves_though_the_guard_does_not_work() -> None:
    async def main() -> None:
        recorder = Recorder("guard on")
        recorder.here = {VIP}
        hands = recorder.hands()
        hands.leave()
        assert await hands.left()
        assert set() == recorder.here
        await hands.close()

    run_virtually(main())


@given(st.booleans(), st.booleans(), st.floats(0, 10))
def test_the_watchdog_removes_only_what_a_silent_master_left(
    armed: bool,  # noqa: FBT001 - drawn
    gone: bool,  # noqa: FBT001 - drawn
    silent_for: float,
) -> None:
    watch = Watch(armed=armed, beat=100.0, gone=gone)
    expected = armed and (gone or silent_for > 0.55)
    assert expected == must_remove(watch, 0.55, 100.0 + silent_for) or (
        abs(silent_for - 0.55) < 1e-9
    )


def test_what_crosses_the_watchdogs_pipe_comes_out_the_same() -> None:
    watched = Watched(
        kind="vrrp", interface="eth0", group=7, source="10.50.0.1",
        addresses=("10.50.0.100",), peers=(), key="", silence=0.55,
        commands=(("conntrack", "-D"),),
    )  # fmt: skip
    assert watched == Watched.read(watched.text())


def test_what_ip_prints_is_read() -> None:
    text = b'[{"ifname":"eth0","addr_info":[{"local":"10.0.0.1"},{"local":"fe80::1"}]}]'
    expected = frozenset({ip_address("10.0.0.1"), ip_address("fe80::1")})
    assert expected == read_addresses(text)
    assert frozenset() == read_addresses(b"")
    with pytest.raises(ElectionError):
        read_addresses(b"Device not found")


def test_no_election_is_master_while_fit() -> None:
    async def main() -> None:
        election = NoElection()
        changes = election.events()
        await election.start()
        election.set_rank(0, "the rules are not loaded")
        election.set_rank(200, "3 of 3 backends healthy")
        election.set_rank(100, "2 of 3 backends healthy")
        await election.stop(handover=True)
        assert [Role.BACKUP, Role.MASTER, Role.INIT] == [c.role async for c in changes]

    run_virtually(main())


def test_external_follows_the_address_and_tells_the_rank(tmp_path: Path) -> None:
    """What could not be told changes nothing."""

    async def main() -> None:
        here: bool | None = False
        file = tmp_path / "rank"
        election = ExternalElection((VIP,), rank_file=file, has=lambda _: here)
        changes = election.events()
        await election.start()
        election.set_rank(200, "3 of 3 backends healthy")
        assert "-54\n" == file.read_text()
        assert Role.BACKUP.value == election.role.value
        here = True
        await asyncio.sleep(0.05)
        assert Role.MASTER.value == election.role.value
        here = None
        await asyncio.sleep(0.05)
        assert Role.MASTER.value == election.role.value
        await election.stop(handover=True)
        assert "-254\n" == file.read_text()
        assert [Role.BACKUP, Role.MASTER] == [c.role async for c in changes]

    run_virtually(main())
