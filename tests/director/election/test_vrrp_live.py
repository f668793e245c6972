"""VRRPv3 in network namespaces: two nodes of ours, and ours with keepalived."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest
from conftest import wait_until
from director.election.rig import VIP, VIP6, Net, Ours, Pings, keepalived, run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system
BAR = 0.5  # seconds; the bar for a takeover with VRRPv3 at 0.1 s


def pair(net: Net, **wish: object) -> tuple[Ours, Ours]:
    """Two nodes of ours; the first is master."""
    first = net.ours(net.a, kind="vrrp", pace=10, rank=200, **wish)
    first.wait_role("master")
    second = net.ours(net.b, kind="vrrp", pace=10, rank=150, **wish)
    second.wait_role("backup")
    return first, second


def report(what: str, seconds: float) -> None:
    print(f"\n{what}: {seconds * 1000:.0f} ms")


def test_a_killed_daemon_is_replaced_and_its_zombie_address_removed(net: Net) -> None:
    """Killed -9 under ping: takeover in time, one holder soon, no gap for clients."""
    first, second = pair(net)
    wait_until(net.a.has, "the address")
    pings = Pings(net.client)
    time.sleep(0.5)
    killed = first.kill()
    taken = second.wait_role("master") - killed
    wait_until(lambda: net.holders() == ["b"], "the watchdog to remove the zombie", 2)
    single = time.monotonic() - killed
    gap = pings.gap()
    report("kill -9 -> master", taken)
    report("kill -9 -> one holder", single)
    report("client's longest gap", gap)
    assert taken < BAR
    assert gap < BAR


def test_a_node_that_is_cut_off_is_replaced(net: Net) -> None:
    """As a power cut: the client's longest gap stays under the bar."""
    _, second = pair(net)
    wait_until(net.a.has, "the address")
    pings = Pings(net.client)
    time.sleep(0.5)
    at = time.monotonic()
    net.a.cut()
    taken = second.wait_role("master") - at
    time.sleep(0.3)
    gap = pings.gap()
    report("cut off -> master", taken)
    report("client's longest gap", gap)
    assert taken < BAR
    assert gap < BAR


def test_a_clean_stop_hands_over_at_once(net: Net) -> None:
    """Within one interval, not after three; the address is gone before it is taken."""
    first, second = pair(net)
    wait_until(net.a.has, "the address")
    pings = Pings(net.client)
    time.sleep(0.3)
    at = time.monotonic()
    first.tell("stop")
    taken = second.wait_role("master") - at
    time.sleep(0.3)
    gap = pings.gap()
    report("clean stop -> master", taken)
    report("client's longest gap", gap)
    assert taken < 0.25
    assert gap < 0.25
    assert net.holders() == ["b"]


def test_a_node_that_becomes_unfit_hands_over_and_waits(net: Net) -> None:
    first, second = pair(net)
    first.tell("rank 0")
    second.wait_role("master", 1)
    assert first.role() == "backup"
    second.kill()
    time.sleep(0.8)
    assert first.role() == "backup"


def test_a_partition_ends_with_one_holder_and_no_flap(net: Net) -> None:
    """Both sides serve while cut; healed, the worse one leaves within a dead time."""
    first, second = pair(net)
    net.b.cut()
    second.wait_role("master", 2)
    time.sleep(0.5)
    assert first.role() == "master"
    changes = len(first.find("role")) + len(second.find("role"))
    pings = Pings(net.client)
    time.sleep(0.3)
    healed = time.monotonic()
    net.b.join()
    single = second.wait_role("backup", 2) - healed
    time.sleep(1.5)
    gap = pings.gap()
    report("healed -> one master", single)
    report("client's longest gap over the heal", gap)
    assert single < 0.4
    assert gap < BAR
    assert net.holders() == ["a"]
    assert len(first.find("role")) + len(second.find("role")) == changes + 1


def test_a_hung_daemon_loses_its_address_and_returns_in_order(net: Net) -> None:
    """SIGSTOP: the peer takes over, the watchdog cleans up; SIGCONT: one holder."""
    first, second = pair(net)
    wait_until(net.a.has, "the address")
    first.signal(signal.SIGSTOP)
    second.wait_role("master", 2)
    wait_until(lambda: net.holders() == ["b"], "the watchdog to remove it", 3)
    first.signal(signal.SIGCONT)
    wait_until(lambda: net.holders() == ["a"], "the better one to take it back", 5)
    time.sleep(0.5)
    assert (first.role(), second.role()) == ("master", "backup")
    assert net.holders() == ["a"]


def test_without_a_peer_a_killed_daemon_leaves_traffic_flowing(net: Net) -> None:
    """The watchdog removes nothing that nobody else serves; a restart takes it up."""
    first = net.ours(net.a, kind="vrrp", pace=10, rank=200)
    first.wait_role("master")
    wait_until(net.a.has, "the address")
    pings = Pings(net.client)
    time.sleep(0.3)
    first.kill()
    time.sleep(1.5)
    again = net.ours(net.a, kind="vrrp", pace=10, rank=200)
    again.wait_role("master")
    time.sleep(0.3)
    assert pings.gap() < 0.1
    assert net.a.has()


def test_ipv6(net: Net) -> None:
    """Adverts between link-local addresses; neighbours learn by advertisement."""
    first, second = pair(net, addresses=[VIP6])
    wait_until(lambda: net.a.has(VIP6), "the address")
    pings = Pings(net.client, VIP6)
    time.sleep(0.5)
    net.a.cut()
    second.wait_role("master", 2)
    time.sleep(0.5)
    net.a.join()
    second.wait_role("backup", 2)
    time.sleep(0.5)
    gap = pings.gap()
    report("IPv6: client's longest gap, there and back", gap)
    assert gap < BAR
    assert net.holders(VIP6) == ["a"]
    assert first.role() == "master"


def test_keepalived_takes_over_from_ours(net: Net, tmp_path: Path) -> None:
    """Ours is the better: keepalived waits; killed -9, stopped, and preempted again."""
    first = net.ours(net.a, kind="vrrp", pace=10, rank=200)
    first.wait_role("master")
    keepalived(net, net.b, tmp_path, 100)
    time.sleep(1.5)
    assert net.holders() == ["a"]
    killed = first.kill()
    wait_until(lambda: net.holders() == ["b"], "keepalived alone", 3)
    report("ours kill -9 -> keepalived the only holder", time.monotonic() - killed)
    assert time.monotonic() - killed < BAR + 0.2
    again = net.ours(net.a, kind="vrrp", pace=10, rank=200)
    again.wait_role("master", 3)
    wait_until(lambda: net.holders() == ["a"], "keepalived to leave", 2)
    at = time.monotonic()
    again.tell("stop")
    wait_until(lambda: net.holders() == ["b"], "keepalived alone", 3)
    report("ours stopped -> keepalived the only holder", time.monotonic() - at)
    assert time.monotonic() - at < 0.3


def test_ours_takes_over_from_keepalived(net: Net, tmp_path: Path) -> None:
    """keepalived is the better one: ours waits; killed -9, returned, stopped."""
    theirs = keepalived(net, net.a, tmp_path, 200)
    wait_until(net.a.has, "keepalived to be master", 8)
    second = net.ours(net.b, kind="vrrp", pace=10, rank=100)
    time.sleep(1.0)
    assert second.role() == "backup"
    killed = theirs.kill()
    taken = second.wait_role("master", 3) - killed
    report("keepalived kill -9 -> ours master", taken)
    assert taken < BAR
    run("ip", "-n", net.a.name, "address", "del", f"{VIP}/32", "dev", "eth0")
    theirs = keepalived(net, net.a, tmp_path, 200)
    second.wait_role("backup", 8)
    wait_until(lambda: net.holders() == ["a"], "ours to leave", 2)
    at = theirs.terminate()
    taken = second.wait_role("master", 3) - at
    report("keepalived stopped -> ours master", taken)
    assert taken < 0.3


def test_a_partition_with_keepalived_ends_with_one_holder(
    net: Net, tmp_path: Path
) -> None:
    first = net.ours(net.a, kind="vrrp", pace=10, rank=200)
    first.wait_role("master")
    keepalived(net, net.b, tmp_path, 100)
    time.sleep(1.0)
    net.b.cut()
    wait_until(lambda: net.holders() == ["a", "b"], "both sides to serve", 3)
    net.b.join()
    healed = time.monotonic()
    wait_until(lambda: net.holders() == ["a"], "one holder", 3)
    report("healed with keepalived -> one holder", time.monotonic() - healed)
    time.sleep(1.0)
    assert net.holders() == ["a"]
    assert len(first.find("role")) == 2


def test_ipv6_with_keepalived(net: Net, tmp_path: Path) -> None:
    """Both ways: ours serves, stops, and leaves no more to keepalived than it takes."""
    first = net.ours(net.a, kind="vrrp", pace=10, rank=200, addresses=[VIP6])
    first.wait_role("master")
    theirs = keepalived(net, net.b, tmp_path, 100, address=VIP6)
    time.sleep(1.5)
    assert net.holders(VIP6) == ["a"]
    at = time.monotonic()
    first.tell("stop")
    wait_until(lambda: net.holders(VIP6) == ["b"], "keepalived alone", 3)
    report("IPv6: ours stopped -> keepalived the only holder", time.monotonic() - at)
    again = net.ours(net.a, kind="vrrp", pace=10, rank=50, addresses=[VIP6])
    time.sleep(1.0)
    assert again.role() == "backup"
    at = theirs.kill()
    taken = again.wait_role("master", 2) - at
    report("IPv6: keepalived kill -9 -> ours master", taken)
    assert taken < BAR


def test_addresses_of_both_families_move_together(net: Net) -> None:
    first, second = pair(net, addresses=[VIP, VIP6])
    wait_until(lambda: net.holders(VIP6) == net.holders() == ["a"], "both addresses")
    first.tell("stop")
    second.wait_role("master", 1)
    wait_until(lambda: net.holders(VIP6) == net.holders() == ["b"], "both to move", 1)
