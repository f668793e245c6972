"""Forged, replayed and altered adverts on a real segment move nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from conftest import wait_until
from director.election.rig import VIP, Net

pytestmark = pytest.mark.system
FORGER = "standfast.director.lab.forger"


def forge(net: Net, protocol: str) -> dict[str, int]:
    """Listen to the segment as a stranger, then send what a stranger can."""
    job = {"job": "adverts", "protocol": protocol, "interface": "eth0", "group": 7}
    words = json.dumps(job | {"address": VIP})
    forger = net.client.start(
        sys.executable, "-m", FORGER, words, stdout=subprocess.PIPE
    )
    out, _ = forger.communicate(timeout=20)
    assert 0 == forger.returncode
    return dict(json.loads(out))


@pytest.mark.parametrize(
    ("kind", "pace"), [("vrrp", 10), ("carp", 1)], ids=["vrrp", "carp"]
)
def test_what_a_stranger_sends_is_ignored_and_counted(
    net: Net, kind: str, pace: int
) -> None:
    wish = {"kind": kind, "pace": pace, "key": "secret", "ours_only": True}
    first = net.ours(net.a, rank=200, **wish)
    first.wait_role("master")
    second = net.ours(net.b, rank=100, **wish)
    time.sleep(0.5)
    sent = forge(net, kind)
    wait_until(
        lambda: sum(second.refused().values()) >= sum(sent.values()), "all adverts"
    )
    # What claims to be the master's own, its kernel drops before we could count it.
    assert sent["replayed"] <= second.refused()["replayed"]
    for node, role in ((first, "master"), (second, "backup")):
        refused = node.refused()
        assert sent["forged"] <= refused["forged"]
        assert sent["malformed"] <= refused["malformed"]
        assert role == node.role()
    assert 2 == len(first.find("role"))
    assert 1 == len(second.find("role"))
    assert ["a"] == net.holders()
