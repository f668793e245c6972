"""`director upgrade` on a real farm under load: good binaries, bad ones, over ssh."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import need
from hypothesis import given
from hypothesis import strategies as st

from standfast.clock import SystemClock
from standfast.director.lab.rig import NEEDS, NODES, Rig
from standfast.director.lab.scenarios import single
from standfast.director.upgrading import (
    Reading,
    Tally,
    read_counters,
    too_many,
    words,
)
from standfast.host.local import LocalHost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from conftest import Sshd

STATS = """Name: HAProxy
Pid: 4711
Uptime_sec: 9

# pxname,svname,hrsp_5xx,dreq,dresp,econ,eresp,wretr,
web,FRONTEND,3,1,0,,,,
app,BACKEND,3,0,0,2,1,5,
"""


def test_counters_are_read_by_name() -> None:
    """FRONTEND and BACKEND count an answer of 500 both; it is one."""
    assert Reading(
        4711,
        {"hrsp_5xx": 3, "dreq": 1, "dresp": 0, "econ": 2, "eresp": 1, "wretr": 5},
    ) == read_counters(STATS)
    assert read_counters("no such thing") is None
    assert read_counters("Pid: 1\n") is None


COUNTS = st.lists(
    st.tuples(st.sampled_from([1, 2, 3]), st.integers(0, 50)), min_size=1, max_size=20
)


@given(COUNTS)
def test_no_error_is_counted_twice_and_none_of_before(
    readings: list[tuple[int, int]],
) -> None:
    """A process counts upwards; another process begins at 0."""
    tally, expected, at = Tally(), 0, {1: 0, 2: 0, 3: 0}
    for index, (pid, more) in enumerate(readings):
        changed = index > 0 and readings[index - 1][0] != pid
        at[pid] = more if changed else at[pid] + more
        expected += more if index else 0
        tally = tally.add("h1", Reading(pid, {"econ": at[pid], "wretr": 99}))
    assert expected == tally.total()
    assert tally == tally.add("h1", None)


def test_when_errors_are_too_many() -> None:
    assert not too_many(0, 5, 0, 0)
    assert too_many(1, 5, 0, 0)
    assert not too_many(1, 5, 0, 1)
    assert not too_many(19, 5, 2, 0)
    assert too_many(20, 5, 2, 0)
    assert words({"econ": 2, "dreq": 0}) == "2 econ"
    assert words({}) == "no errors"


@pytest.fixture(scope="module")
def farm() -> Iterator[Rig]:
    need(*NEEDS)
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces")
    host = LocalHost()
    rig = Rig(host, SystemClock(), deadline="500ms")
    try:
        rig.build()
        single(rig)
        yield rig
    finally:
        rig.close()
        host.close()


@pytest.fixture
def rig(farm: Rig) -> Iterator[Rig]:
    """The farm with its good HAProxy, whatever the last test left."""
    yield farm
    for name in NODES:
        stop_all(farm, name)
        (farm.folder / f"{name}.sock").unlink(missing_ok=True)
        farm.start_haproxy(name)
        farm.ask("a", do="undrain", backend=name)
    farm.wait_up("a")


def pids(rig: Rig, name: str) -> list[int]:
    """Return the HAProxy of a node."""
    listing = subprocess.run(
        ["ip", "netns", "pids", rig.space(name)], capture_output=True, check=True
    )
    return [int(word) for word in listing.stdout.split()]


def stop_all(rig: Rig, name: str) -> None:
    for pid in pids(rig, name):
        subprocess.run(["kill", "-9", str(pid)], check=False)
    rig.wait(lambda: not pids(rig, name), f"{name} does not stop")


def upgrade(
    rig: Rig,
    *before: str,
    command: Sequence[str],
    path: str = "",
    where: str = "a",
) -> tuple[int, dict[str, Any], str]:
    # On the director, as its witnesses are clients of the backends.
    argv = ["ip", "netns", "exec", rig.space(where)]
    argv += [sys.executable, "-m", "standfast", "director", "upgrade", *before]
    argv += ["--socket", str(rig.folder / "a.ctl"), "--json", "--", *command]
    env = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    ran = subprocess.run(
        argv, capture_output=True, text=True, timeout=120, check=False, env=env
    )
    return ran.returncode, json.loads(ran.stdout or "{}"), ran.stderr


def replaced(rig: Rig, config: str = "{name}.cfg") -> list[str]:
    """Return a COMMAND that stops a node's HAProxy softly and starts another."""
    script = (
        "set -e; n=$1; space=$2$1; old=$(ip netns pids $space); kill -USR1 $old; "
        'while [ -n "$(ip netns pids $space)" ]; do sleep .05; done; '
        "rm -f $3/$n.sock; ip netns exec $space haproxy -D -f $3/$4"
    )
    where = [rig.space(""), str(rig.folder), config]
    return ["sh", "-c", script, "replace", "{name}", *where]


def spoil(rig: Rig, rule: str) -> None:
    """Write for each node the configuration of a bad binary."""
    for name in NODES:
        text = (rig.folder / f"{name}.cfg").read_text()
        bad = text.replace(
            "  monitor-uri /health\n", f"  monitor-uri /health\n{rule}\n"
        )
        (rig.folder / f"{name}.bad").write_text(bad)


@pytest.mark.system
def test_nobody_notices_and_the_report_says_so(rig: Rig) -> None:
    load = rig.job(job="requests", clients=20, pause=0.06, seconds=22)
    before = {name: pids(rig, name) for name in NODES}
    code, report, said = upgrade(rig, command=replaced(rig))
    assert 0 == code, said
    assert list(NODES) == [turn["backend"] for turn in report["turns"]]
    for turn in report["turns"]:
        assert turn["requests"] > 20
        assert {0} == {turn[k] for k in ("refused", "cut", "early", "bad")}
        assert {} == turn["counters"]
        assert turn["left"] is not None
        assert turn["seconds"] > 2
    assert all(before[name] != pids(rig, name) for name in NODES)
    assert {"ok"} == set(rig.result(load))


@pytest.mark.system
def test_a_client_outside_watches_through_the_virtual_address(rig: Rig) -> None:
    """From where no backend can be reached; its page turns bad on the new binary."""
    url = ["--check-url", "http://10.50.0.100/"]
    code, report, said = upgrade(rig, "h1", *url, command=replaced(rig), where="client")
    assert 0 == code, said
    assert report["turns"][0]["requests"] > 20
    assert {} == report["turns"][0]["counters"]
    spoil(rig, "  http-request return status 500 unless { hdr(user-agent) standfast }")
    more = [*url, "--soak", "5s"]
    code, report, said = upgrade(
        rig, "h2", *more, command=replaced(rig, "{name}.bad"), where="client"
    )
    assert 1 == code
    assert "h2: errors rise: " in said
    assert report["turns"][0]["bad"] > 0
    assert "draining" == rig.states("a")["h2"]


@pytest.mark.system
def test_a_bad_page_is_seen_before_clients_come(rig: Rig) -> None:
    """The new binary answers its probes, and 500 to everybody else."""
    spoil(rig, "  http-request return status 500 unless { hdr(user-agent) standfast }")
    load = rig.job(job="requests", clients=10, pause=0.06, seconds=10)
    code, report, said = upgrade(rig, command=replaced(rig, "{name}.bad"))
    assert 1 == code
    assert "h1: its probes pass, but its page is bad; it stays drained" in said
    assert ["h1"] == [turn["backend"] for turn in report["turns"]]
    assert report["stopped"] in said
    assert {"h1": "draining", "h2": "up", "h3": "up"} == rig.states("a")
    assert {"ok"} == set(rig.result(load))


@pytest.mark.system
def test_errors_that_only_clients_cause_stop_it(rig: Rig) -> None:
    """500 to those who are not ours: only HAProxy's own counters tell."""
    spoil(rig, "  http-request return status 500 unless { hdr(user-agent) -m found }")
    load = rig.job(job="load", rate=60, seconds=10)
    code, report, said = upgrade(rig, command=replaced(rig, "{name}.bad"))
    assert 1 == code
    assert "h1: errors rise: h1 " in said
    assert "hrsp_5xx" in said
    assert report["turns"][0]["counters"]["hrsp_5xx"] > 0
    assert {"h1": "draining", "h2": "up", "h3": "up"} == rig.states("a")
    assert {"", "status 500"} == {error for *_, error in rig.result(load)}


@pytest.mark.system
def test_errors_that_show_later_take_out_who_has_them(rig: Rig) -> None:
    """Keep-alive clients come to h1 only when h2 sends them away."""
    spoil(rig, "  http-request return status 500 unless { hdr(user-agent) -m found }")
    load = rig.job(job="requests", clients=20, pause=0.06, seconds=12)
    rig.clock.sleep(1.0)
    code, report, said = upgrade(rig, "h1", "h2", command=replaced(rig, "{name}.bad"))
    assert 1 == code
    last = report["turns"][-1]["backend"]
    assert f"{last}: errors rise: " in said
    assert "h1 " in said.split("errors rise: ")[1]
    assert "draining" == rig.states("a")["h1"]
    assert "up" == rig.states("a")["h3"]
    assert {"ok", "bad"} == set(rig.result(load))


@pytest.mark.system
def test_a_cut_is_seen_and_stops_it(rig: Rig) -> None:
    """A command that kills instead of stopping softly closes connections early."""
    script = replaced(rig)[2].replace("kill -USR1", "kill -9")
    rest = replaced(rig)[3:]
    code, report, said = upgrade(rig, command=["sh", "-c", script, *rest])
    assert 1 == code
    assert "h1: errors rise:" in said
    assert report["turns"][0]["early"] + report["turns"][0]["cut"] > 0
    assert "draining" == rig.states("a")["h1"]


@pytest.mark.system
def test_a_command_that_fails_or_a_node_that_stays_away(rig: Rig) -> None:
    code, report, said = upgrade(rig, "h2", command=["false"])
    assert 1 == code
    assert "h2: false ended with status 1; it stays drained" in said
    assert ["h2"] == [turn["backend"] for turn in report["turns"]]
    rig.ask("a", do="undrain", backend="h2")
    gone = ["sh", "-c", "kill $(ip netns pids $0)", rig.space("h2")]
    code, _, said = upgrade(
        rig, "h2", "--deadline", "1s", "--errors", "99", command=gone
    )
    assert 1 == code
    assert "h2: does not come back; it stays drained" in said
    code, _, said = upgrade(rig, "h3", command=["true"])
    assert 1 == code
    assert "h2 is down: h3 is not touched" in said


@pytest.mark.system
def test_it_runs_there_over_ssh(rig: Rig, plain_sshd: Sshd, tmp_path: Path) -> None:
    """The director is in a namespace; its ssh leaves it, to where sshd listens."""
    ssh = tmp_path / "ssh"
    net = f"/proc/{os.getpid()}/ns/net"
    line = f'exec nsenter --net={net} {plain_sshd.bin}/ssh "$@"'
    ssh.write_text(f"#!/bin/sh\n{line}\n")
    ssh.chmod(0o700)
    there = f"{plain_sshd.user}@127.0.0.1:{plain_sshd.port}"
    code, report, said = upgrade(
        rig,
        "h1",
        "h3",
        "--ssh",
        there,
        command=["sh", "-c", "echo {name} {address} >> ran"],
        path=str(tmp_path),
    )
    assert 0 == code, said
    assert 2 == len(report["turns"])
    ran = (plain_sshd.home / "ran").read_text()
    assert "h1 10.60.0.21\nh3 10.60.0.23\n" == ran


@pytest.mark.system
def test_a_dry_run_and_wrong_usage(rig: Rig) -> None:
    code, plan, _ = upgrade(rig, "h1", "-n", command=["echo", "{name}", "--json"])
    assert 0 == code
    assert [["echo h1 --json"]] == [step["commands"] for step in plan["plan"]]
    code, _, said = upgrade(rig, "h1", command=[])
    assert 2 == code
    assert "say what to run for each backend" in said
    code, _, said = upgrade(rig, "h1", command=["echo", "{nmae}"])
    assert 2 == code
    assert "cannot fill in: {nmae}" in said
