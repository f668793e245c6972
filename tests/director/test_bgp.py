"""BGP: what is announced, in which order, and what a real router makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.director.bgp import (
    MED_LEAVING,
    Announcement,
    BgpError,
    BgpSpeaker,
    Stance,
    commands,
    med_of,
    prefix_of,
    wanted,
)
from standfast.director.election.bgp import BgpElection
from standfast.director.election.model import Role
from standfast.director.model import Address

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from director.router import Router

VIRTUAL = Address("192.0.2.10", 443)


def test_the_commands_are_exabgp_s() -> None:
    """One host route per address, whatever ports it has."""
    virtuals = [VIRTUAL, Address("192.0.2.10", 80), Address("2001:db8::10", 80)]

    assert [
        "announce route 192.0.2.10/32 next-hop self med 104 community [ 65001:7 ]",
        "announce route 2001:db8::10/128 next-hop self med 104 community [ 65001:7 ]",
    ] == commands({}, wanted(virtuals, Stance.SERVE, 250, ("65001:7",)))
    assert [
        "announce route 192.0.2.10/32 next-hop self med 10000 community [ 65535:0 ]"
    ] == commands({}, wanted([VIRTUAL], Stance.LEAVING, 250))
    assert ["withdraw route 192.0.2.10/32"] == commands(
        wanted([VIRTUAL], Stance.SERVE, 1), wanted([VIRTUAL], Stance.GONE, 1)
    )
    assert "192.0.2.10/32" == prefix_of(VIRTUAL)


@given(st.integers(-5, 300), st.integers(-5, 300))
def test_a_fitter_director_is_preferred_and_leaving_is_worst(a: int, b: int) -> None:
    if a > b:
        assert med_of(a) <= med_of(b)
    assert med_of(a) < MED_LEAVING


announcements = st.dictionaries(
    st.sampled_from(["192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128"]),
    st.integers(0, 3),
).map(lambda d: {p: Announcement(p, med) for p, med in d.items()})


@given(announcements, announcements)
def test_commands_lead_from_one_wish_to_the_other(
    told: dict[str, Announcement], wish: dict[str, Announcement]
) -> None:
    """Played by a router they give the wish; all announcements come first."""
    routes = {p: one.command() for p, one in told.items()}
    issued = commands(told, wish)
    for command in issued:
        prefix = command.split()[2]
        if command.startswith("withdraw"):
            del routes[prefix]
        else:
            routes[prefix] = command

    assert {p: one.command() for p, one in wish.items()} == routes
    assert issued == sorted(issued, key=lambda c: c.startswith("withdraw"))
    assert ([] == issued) == (told == wish)


class Relay:
    """Stands where ExaBGP's relay would: reads commands, answers each."""

    def __init__(self, answer: bytes = b"done\n") -> None:
        self.answer = answer
        self.heard: list[str] = []

    async def talk(self, path: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            while line := await reader.readline():
                self.heard.append(line.decode().strip())
                writer.write(self.answer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def until(ready: Callable[[], object], seconds: float = 10.0) -> float:
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not ready():  # noqa: ASYNC110 - what a caller sees
            await asyncio.sleep(0.002)
    return time.monotonic() - began


def test_leaving_is_worse_then_withdrawn_then_done(tmp_path: Path) -> None:
    """Only when the withdrawal is acknowledged may the address be removed."""
    path = tmp_path / "bgp.sock"

    async def scenario() -> list[str]:
        speaker, relay = BgpSpeaker(path, [VIRTUAL], shift=0.05), Relay()
        await speaker.start()
        assert 0o600 == path.stat().st_mode & 0o777
        talk = asyncio.create_task(relay.talk(path))
        await speaker.connected.wait()
        await speaker.serve(254)
        await speaker.serve(254)
        await speaker.leave()
        await speaker.leave()
        await speaker.stop()
        await talk
        return relay.heard

    assert [
        "announce route 192.0.2.10/32 next-hop self med 100",
        "announce route 192.0.2.10/32 next-hop self med 10000 community [ 65535:0 ]",
        "withdraw route 192.0.2.10/32",
    ] == asyncio.run(scenario())
    assert not path.exists()


def test_a_late_or_restarted_exabgp_is_told_everything(tmp_path: Path) -> None:
    path = tmp_path / "bgp.sock"

    async def scenario() -> tuple[list[str], list[str]]:
        speaker = BgpSpeaker(path, [VIRTUAL])
        await speaker.start()
        await speaker.serve(254)
        first, second = Relay(), Relay()
        talk = asyncio.create_task(first.talk(path))
        await until(lambda: first.heard)
        talk.cancel()
        await until(lambda: not speaker.connected.is_set())
        talk = asyncio.create_task(second.talk(path))
        await until(lambda: second.heard)
        await speaker.stop()
        await talk
        return first.heard, second.heard

    told = ["announce route 192.0.2.10/32 next-hop self med 100"]
    assert (told, told) == asyncio.run(scenario())


def test_what_a_former_daemon_announced_is_withdrawn_by_an_unfit_one(
    tmp_path: Path,
) -> None:
    """Nothing is said before a rank is known; then the route goes at once."""
    path = tmp_path / "bgp.sock"

    async def scenario() -> tuple[list[str], list[str]]:
        speaker, relay = BgpSpeaker(path, [VIRTUAL], shift=0.01), Relay()
        await speaker.start()
        talk = asyncio.create_task(relay.talk(path))
        await speaker.connected.wait()
        await asyncio.sleep(0.05)
        before = list(relay.heard)
        await speaker.leave()
        await speaker.leave()
        await speaker.stop()
        await talk
        return before, relay.heard

    assert ([], ["withdraw route 192.0.2.10/32"]) == asyncio.run(scenario())


@pytest.mark.parametrize("answer", [b"error\n", b""])
def test_what_is_not_acknowledged_is_not_gone(tmp_path: Path, answer: bytes) -> None:
    """Silence and refusal are errors: the caller must keep the address."""
    path = tmp_path / "bgp.sock"

    async def scenario() -> None:
        speaker, relay = BgpSpeaker(path, [VIRTUAL], shift=0.01), Relay()
        await speaker.start()
        talk = asyncio.create_task(relay.talk(path))
        await speaker.connected.wait()
        await speaker.serve(254)
        relay.answer = answer
        try:
            with pytest.raises(BgpError, match="announce route"):
                await speaker.leave()
            assert "192.0.2.10/32" in speaker.problem
        finally:
            await speaker.stop()
            await talk

    asyncio.run(scenario())


def test_leaving_without_exabgp_is_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        speaker = BgpSpeaker(tmp_path / "bgp.sock", [VIRTUAL], shift=0.01)
        await speaker.start()
        await speaker.serve(254)
        try:
            with pytest.raises(BgpError, match="not connected"):
                await speaker.leave()
        finally:
            await speaker.stop()

    asyncio.run(scenario())


def has(election: BgpElection, role: Role) -> Callable[[], bool]:
    return lambda: election.role is role


class Rules:
    """A data plane that remembers when its guard came off."""

    def __init__(self, heard: list[str]) -> None:
        self.heard = heard

    async def guard_off(self) -> None:
        self.heard.append("guard off")


def test_a_rank_becomes_a_route_and_no_rank_none(tmp_path: Path) -> None:
    """Rules first; unfit leaves in two steps; a clean stop as well."""
    path = tmp_path / "bgp.sock"

    async def scenario() -> tuple[list[str], list[Role]]:
        relay, seen = Relay(), []
        speaker = BgpSpeaker(path, [VIRTUAL], shift=0.02)
        election = BgpElection(speaker, Rules(relay.heard))
        listener = election.events()
        await election.start()
        talk = asyncio.create_task(relay.talk(path))
        await speaker.connected.wait()
        for rank, role in ((254, Role.MASTER), (0, Role.BACKUP), (100, Role.MASTER)):
            election.set_rank(rank, "as told")
            await until(has(election, role))
        await election.stop(handover=True)
        seen = [change.role async for change in listener]
        await talk
        return relay.heard, seen

    heard, seen = asyncio.run(scenario())
    route = "announce route 192.0.2.10/32 next-hop self med"
    worse = f"{route} 10000 community [ 65535:0 ]"
    gone = "withdraw route 192.0.2.10/32"

    assert [
        "guard off",
        f"{route} 100",
        worse,
        gone,
        "guard off",
        f"{route} 254",
        worse,
        gone,
    ] == heard
    assert [Role.BACKUP, Role.MASTER, Role.BACKUP, Role.MASTER, Role.BACKUP] == seen


def test_a_stop_without_handover_leaves_the_routes(tmp_path: Path) -> None:
    path = tmp_path / "bgp.sock"

    async def scenario() -> list[str]:
        relay = Relay()
        speaker = BgpSpeaker(path, [VIRTUAL], shift=0.02)
        election = BgpElection(speaker, Rules([]))
        await election.start()
        talk = asyncio.create_task(relay.talk(path))
        await speaker.connected.wait()
        election.set_rank(254, "as told")
        await until(lambda: election.role is Role.MASTER)
        await election.stop(handover=False)
        await talk
        return relay.heard

    assert ["announce route 192.0.2.10/32 next-hop self med 100"] == asyncio.run(
        scenario()
    )


# --- a real router


@pytest.mark.system
def test_a_router_follows_without_a_hole(router: Router, tmp_path: Path) -> None:
    """Announce, prefer, move before withdrawing, withdraw, survive the daemon."""
    figures: dict[str, float] = {}

    async def scenario() -> None:
        speakers: dict[str, Any] = {}
        for name, net, rank in (("a", 1, 254), ("b", 2, 200)):
            path = tmp_path / f"{name}.sock"
            speakers[name] = BgpSpeaker(path, [VIRTUAL], shift=0.3)
            await speakers[name].start()
            await speakers[name].serve(rank)
            router.exabgp(name, net, path)
        await until(lambda: router.via() == "10.99.1.2", 30)
        await until(lambda: router.routes().count("BGP.next_hop") == 2, 30)

        holes: list[str] = []

        async def watch() -> None:
            while True:
                if router.via() == "":
                    holes.append(f"no route at {time.monotonic()}")
                await asyncio.sleep(0.005)

        watcher = asyncio.create_task(watch())
        leaving = asyncio.create_task(speakers["a"].leave())
        figures["moved"] = await until(lambda: router.via() == "10.99.2.2")
        text = router.routes()
        assert not leaving.done()
        assert "BGP.med: 10000" in text
        assert "BGP.community: (65535,0)" in text
        await leaving
        assert "10.99.1.2" not in router.routes()
        assert "10.99.2.2" == router.via()

        await speakers["a"].serve(254)
        figures["back"] = await until(lambda: router.via() == "10.99.1.2")
        watcher.cancel()
        assert [] == holes

        # The daemon dies: its socket closes, and the routes stay.
        await speakers["a"].stop()
        await asyncio.sleep(1.0)
        assert "10.99.1.2" == router.via()
        again = BgpSpeaker(tmp_path / "a.sock", [VIRTUAL], shift=0.1)
        await again.start()
        await again.serve(100)
        figures["restarted"] = await until(lambda: router.via() == "10.99.2.2")
        await again.stop()
        await speakers["b"].stop()

    asyncio.run(scenario())
    for what, seconds in figures.items():
        print(f"{what}: {seconds * 1000:.0f} ms")
    assert figures["moved"] < 0.3
