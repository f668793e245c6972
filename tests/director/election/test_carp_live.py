"""CARP in network namespaces: two nodes of ours, and ours with ucarp."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from conftest import wait_until
from director.election.rig import VIP, Net, Ours, Pings, Space, run, ucarp

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system
SECRET = "secret"


def ours(net: Net, space: Space, rank: int, **wish: object) -> Ours:
    return net.ours(space, kind="carp", pace=1, key=SECRET, rank=rank, **wish)


def report(what: str, seconds: float) -> None:
    print(f"\n{what}: {seconds * 1000:.0f} ms")


def test_two_of_ours_sealed(net: Net) -> None:
    """Clean stop hands over at once; killed -9, three advert intervals."""
    first = ours(net, net.a, 254, ours_only=True)
    second = ours(net, net.b, 200, ours_only=True)
    first.wait_role("master")
    assert second.role() == "backup"
    wait_until(net.a.has, "the address")
    pings = Pings(net.client)
    at = time.monotonic()
    first.tell("stop")
    taken = second.wait_role("master", 1) - at
    time.sleep(0.3)
    gap = pings.gap()
    report("clean stop -> master", taken)
    report("client's longest gap", gap)
    assert net.holders() == ["b"]
    assert gap < 0.25
    again = ours(net, net.a, 254, ours_only=True)
    again.wait_role("master", 5)
    wait_until(lambda: net.holders() == ["a"], "the worse one to leave", 2)
    killed = again.kill()
    taken = second.wait_role("master", 6) - killed
    report("kill -9 -> master", taken)
    wait_until(lambda: net.holders() == ["b"], "the watchdog", 2)
    assert 1.9 < taken < 3.6


def test_ucarp_takes_over_from_ours(net: Net, tmp_path: Path) -> None:
    """Ours is the better: ucarp waits; it understands our farewell; and a silence."""
    first = ours(net, net.a, 254)
    first.wait_role("master", 5)
    ucarp(net, net.b, tmp_path, 100)
    time.sleep(4.5)
    assert net.holders() == ["a"]
    at = time.monotonic()
    first.tell("stop")
    wait_until(lambda: net.holders() == ["b"], "ucarp alone", 3)
    report("ours stopped -> ucarp the only holder", time.monotonic() - at)
    assert time.monotonic() - at < 1.5  # by silence it would be 3.4 s or more
    again = ours(net, net.a, 254)
    again.wait_role("master", 5)
    wait_until(lambda: net.holders() == ["a"], "ucarp to leave", 3)
    killed = again.kill()
    wait_until(lambda: net.holders() == ["b"], "ucarp alone", 6)
    report("ours kill -9 -> ucarp the only holder", time.monotonic() - killed)


def test_ours_takes_over_from_ucarp(net: Net, tmp_path: Path) -> None:
    """ucarp is the better: ours waits; takes over on kill -9; leaves on its return."""
    theirs = ucarp(net, net.a, tmp_path, 0)
    wait_until(net.a.has, "ucarp to be master", 8)
    second = ours(net, net.b, 150)
    time.sleep(4.0)
    assert second.role() == "backup"
    assert not any(second.refused().values())
    killed = theirs.kill()
    taken = second.wait_role("master", 6) - killed
    report("ucarp kill -9 -> ours master", taken)
    assert taken < 4
    run("ip", "-n", net.a.name, "address", "del", f"{VIP}/32", "dev", "eth0")
    ucarp(net, net.a, tmp_path, 0)
    second.wait_role("backup", 8)
    wait_until(lambda: net.holders() == ["a"], "ours to leave", 3)
    time.sleep(2.5)
    assert second.role() == "backup"


def test_a_partition_with_ucarp_ends_with_one_holder(net: Net, tmp_path: Path) -> None:
    first = ours(net, net.a, 254)
    first.wait_role("master", 5)
    ucarp(net, net.b, tmp_path, 100)
    time.sleep(1.0)
    net.b.cut()
    wait_until(lambda: net.holders() == ["a", "b"], "both sides to serve", 8)
    net.b.join()
    healed = time.monotonic()
    wait_until(lambda: net.holders() == ["a"], "one holder", 5)
    report("healed with ucarp -> one holder", time.monotonic() - healed)
    time.sleep(2.0)
    assert net.holders() == ["a"]
    assert len(first.find("role")) == 2
