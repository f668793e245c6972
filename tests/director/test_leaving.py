"""A backend that is taken out of the file keeps its connections until they end."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from conftest import need

from standfast.clock import SystemClock
from standfast.director import record
from standfast.director.health import Pace
from standfast.director.lab.rig import NEEDS, Rig
from standfast.director.lab.scenarios import pair, single
from standfast.director.leaving import GRACE_SECONDS, Former, is_over, with_former
from standfast.director.model import (
    Address,
    Backend,
    Pin,
    Service,
    Wanted,
    configuration_digest,
    digest,
)
from standfast.director.plan import (
    Configured,
    Left,
    Policy,
    Remembered,
    State,
    step,
    tables,
)
from standfast.host.local import LocalHost

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from standfast.director.model import Mode

BACKENDS = {f"h{i}": Backend(f"h{i}", Address(f"10.0.0.{i}")) for i in (1, 2, 3)}
VIRTUAL = Address("192.0.2.1", 80)


def configured(*names: str, at: float = 0.0, **changed: Backend) -> Configured:
    backends = {name: changed.get(name, BACKENDS[name]) for name in names}
    service = Service("web", (VIRTUAL,), names, slots=251)
    paces = dict.fromkeys(names, Pace())
    return Configured((service,), backends, paces, Policy(), at)


def wanted(state: State) -> Wanted:
    former = {name: gone.backend for name, gone in state.leaving.items()}
    return Wanted(
        with_former(state.services, state.leaving),
        {**state.backends, **former},
        tables(state),
        guard=False,
        former=frozenset(former),
    )


def test_it_gets_nothing_new_but_stays_known() -> None:
    state = step(State(), configured("h1", "h2", "h3")).state
    done = step(state, configured("h1", "h2", at=5))
    assert "h3 leaves, its connections go on" in done.sentence
    assert "h3" not in tables(done.state)["web"]
    assert ("h1", "h2", "h3") == wanted(done.state).services[0].backends
    assert {} == step(done.state, Left("h3")).state.leaving


def test_two_directors_agree_while_one_still_sees_it_off() -> None:
    """Neither digest counts who has left: a fresh start has the same table."""
    fresh = step(State(), configured("h1", "h2")).state
    state = step(State(), configured("h1", "h2", "h3")).state
    state = step(state, configured("h1", "h2")).state
    for words in (digest, configuration_digest):
        assert words(wanted(fresh)) == words(wanted(state))


def test_who_comes_back_leaves_no_more_and_who_moves_leaves_its_old_place() -> None:
    state = step(State(), configured("h1", "h2")).state
    state = step(state, configured("h1")).state
    assert {} == step(state, configured("h1", "h2")).state.leaving
    moved = replace(BACKENDS["h1"], address=Address("10.0.0.9"))
    state = step(state, configured("h1", h1=moved)).state
    assert Address("10.0.0.1") == state.leaving["h1/old"].backend.address
    heavier = replace(moved, weight=9)
    assert {"h2", "h1/old"} == set(
        step(state, configured("h1", h1=heavier)).state.leaving
    )


def test_when_it_is_over() -> None:
    former = Former(BACKENDS["h3"], frozenset({"web"}), 100.0)
    pin = Pin(Address("198.51.100.7", 4444), VIRTUAL, "h3", 0.0)

    def over(age: float, left: int | None, *pins: Pin) -> bool:
        now = 100.0 + age
        return is_over(former, now, bound=3600.0, connections=left, pins=pins)

    assert not over(GRACE_SECONDS / 2, 0)
    assert over(GRACE_SECONDS * 2, 0)
    assert not over(GRACE_SECONDS * 2, 1)
    assert not over(GRACE_SECONDS * 2, None)
    assert not over(GRACE_SECONDS * 2, 0, pin)
    assert over(3601, 7, pin)


def test_it_outlives_the_daemon(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    assert {} == record.load_leaving(path)
    state = step(State(), configured("h1", "h2", "h3")).state
    state = step(state, configured("h1", at=5)).state
    record.save(path, state)
    again = step(State(), configured("h1", "h2")).state
    again = step(again, Remembered(record.load_leaving(path))).state
    assert {"h3": state.leaving["h3"]} == again.leaving


@pytest.fixture
def rigs(request: pytest.FixtureRequest) -> Iterator[Rig]:
    need(*NEEDS)
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces")
    host = LocalHost()
    rig = Rig(host, SystemClock(), mode=request.param, deadline="500ms")
    try:
        rig.build()
        yield rig
    finally:
        rig.close()
        host.close()


def take_out(rig: Rig, name: str, node: str) -> None:
    """Take a node out of a director's file, and let it read that."""
    path = rig.folder / f"{name}.toml"
    text = path.read_text()
    start = text.index(f"[backend.{node}]")
    end = text.find("[backend.", start + 1)
    path.write_text(text[:start] + (text[end:] if end > 0 else ""))
    rig.ask(name, do="reload")


def states(rig: Rig, name: str = "a") -> dict[str, str]:
    rows = rig.ask(name, do="status", backends=[])["backends"]
    return {row["name"]: row["state"] for row in rows}


MODES: list[Mode] = ["nat", "stateless"]


@pytest.mark.system
@pytest.mark.parametrize("rigs", MODES, indirect=True)
def test_a_reload_under_traffic_keeps_connections(rigs: Rig) -> None:
    """The rule set changes as a whole, and a backend leaves the file."""
    single(rigs)
    held = rigs.job(job="long", downloads=30, client_first=15, seconds=6)
    load = rigs.job(job="load", rate=200, seconds=5)
    rigs.clock.sleep(1.5)
    take_out(rigs, "a", "h3")
    rigs.clock.sleep(0.5)
    assert "leaving" == states(rigs)["h3"]
    late = rigs.result(rigs.job(job="load", rate=200, seconds=1))
    assert {"h1", "h2"} == {node for _, node, _ in late}
    assert {""} == {error for *_, error in rigs.result(load)}
    assert {"downloads": 30, "client_first": 15} == rigs.result(held)["alive"]
    rigs.wait(lambda: "h3" not in states(rigs), "h3 is never forgotten", 60)


@pytest.mark.system
@pytest.mark.parametrize("rigs", MODES, indirect=True)
def test_who_left_both_files_survives_a_failover(rigs: Rig) -> None:
    pair(rigs)
    held = rigs.job(
        job="long", downloads=30, client_first=15, server_first=15, seconds=8
    )
    rigs.clock.sleep(1.5)
    for name in ("a", "b"):
        take_out(rigs, name, "h3")
    rigs.wait(
        lambda: rigs.ask("b", do="status", backends=[])["peer"]["pins"] > 0,
        "no pins come to b",
    )
    rigs.clock.sleep(1.2)
    rigs.power_off("a")
    alive = rigs.result(held)["alive"]
    assert {"downloads": 30, "client_first": 15, "server_first": 15} == alive
