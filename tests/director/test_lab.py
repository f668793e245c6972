"""Every scenario of the lab holds its bar: real HAProxy, nft and traffic."""

from __future__ import annotations

import os

import pytest
from conftest import need

from standfast.clock import SystemClock
from standfast.director.lab.rig import NEEDS, Rig
from standfast.director.lab.table import SCENARIOS, play
from standfast.host.local import LocalHost

pytestmark = pytest.mark.system


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scenario_holds_its_bar(name: str) -> None:
    need(*NEEDS)
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces")
    host = LocalHost()
    try:
        finding = play(name, host, SystemClock())
    finally:
        host.close()
    print(finding.figures)
    assert finding.held, f"{finding.figures}; the bar: {finding.bar}"


def test_stateless_drain_and_restart_keep_flows() -> None:
    """Without conntrack: learned pins keep drained flows where they were."""
    need(*NEEDS)
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces")
    host = LocalHost()
    rig = Rig(host, SystemClock())
    try:
        rig.build()
        rig.start_director("a", election="none", mode="stateless")
        rig.give_addresses("a")
        rig.wait_up("a")
        rig.wait(lambda: rig.role("a") == "master", "a does not begin")
        held = rig.job(job="long", downloads=20, client_first=10, seconds=3)
        rig.clock.sleep(1.0)
        rig.ask("a", do="drain", backend="h3")
        seen = rig.ask("a", do="status")["backends"]
        assert 30 == sum(row["connections"] for row in seen)
        rows = rig.result(rig.job(job="load", rate=200, seconds=1))
        assert {"h1", "h2"} == {node for _, node, _ in rows}
        assert {"downloads": 20, "client_first": 10} == rig.result(held)["alive"]
        tracked = rig.inside("a", "conntrack", "-L", "-d", "10.50.0.100")
        assert "" == tracked
    finally:
        rig.close()
        host.close()
