"""Every scenario of the lab holds its bar: real HAProxy, nft and traffic."""

from __future__ import annotations

import os

import pytest
from conftest import need

from standfast.clock import SystemClock
from standfast.director.lab.rig import NEEDS
from standfast.director.lab.scenarios import SCENARIOS, play
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
