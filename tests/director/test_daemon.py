"""The daemon by its command line: orders, reload, page, upgrade; real everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from labs import built_lab

from standfast.director.control import ControlError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from standfast.director.lab.rig import Rig

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with built_lab() as rig:
        rig.start_director("a", election="none")
        rig.give_addresses("a")
        rig.wait_up("a")
        rig.wait(lambda: rig.role("a") == "master", "a does not begin")
        yield rig


def director(rig: Rig, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["ip", "netns", "exec", rig.space("a")]
    command += [sys.executable, "-m", "standfast", "director", *words]
    if words[0] != "check":
        command += ["--socket", str(rig.folder / "a.ctl")]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_socket_is_closed_to_others(rig: Rig) -> None:
    assert 0o660 == (rig.folder / "a.ctl").stat().st_mode & 0o777


def test_drain_status_where_undrain(rig: Rig) -> None:
    drained = director(rig, "drain", "h3", "--wait", "--deadline", "2s", "--json")
    assert {"backend": "h3", "left": 0}.items() <= json.loads(drained.stdout).items()
    assert "draining" in director(rig, "status").stdout
    places = json.loads(director(rig, "where", "10.50.0.2:4444", "--json").stdout)
    assert {"h1", "h2"} >= {row["backend"] for row in places["places"]}
    assert 0 == director(rig, "undrain", "h3").returncode


def test_the_machine_s_screen_shows_the_director(rig: Rig) -> None:
    """``standfast status``: well, then with a backend that is down."""
    command = [sys.executable, "-m", "standfast", "status", "--offline", "--json"]
    command += ["--socket", str(rig.folder / "a.ctl")]

    def part() -> tuple[str, list[str]]:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False
        )
        parts = {p["part"]: p for p in json.loads(done.stdout)["parts"]}
        found = parts["service"]
        return found["state"], [remark["text"] for remark in found["remarks"]]

    assert ("ok", []) == part()
    before = rig.pid("h2")
    os.kill(before, signal.SIGSTOP)
    try:
        rig.wait(lambda: rig.states("a")["h2"] == "down", "h2 is not seen to hang")
        state, texts = part()
        assert "warning" == state
        assert any(text.startswith("h2 is down") for text in texts)
    finally:
        os.kill(before, signal.SIGCONT)
    rig.wait_up("a")


def test_the_last_that_serves_is_not_taken_out(rig: Rig) -> None:
    for name in ("h1", "h2"):
        assert 0 == director(rig, "disable", name).returncode
    refused = director(rig, "disable", "h3")
    assert 1 == refused.returncode
    assert "h3 is the last that serves web" in refused.stderr
    for name in ("h1", "h2"):
        director(rig, "undrain", name)


def test_a_wrong_reload_keeps_what_was(rig: Rig) -> None:
    path = rig.folder / "a.toml"
    good = path.read_text()
    try:
        path.write_text(good.replace("weight", "weigth").replace("front =", "fornt ="))
        refused = director(rig, "reload")
        assert 1 == refused.returncode
        assert "fornt: there is no such key" in refused.stderr
        assert "did you mean front?" in refused.stderr
        assert rig.states("a")["h1"] == "up"
    finally:
        path.write_text(good)
    assert 0 == director(rig, "reload").returncode


def test_rules_removed_by_hand_come_back(rig: Rig) -> None:
    rig.inside("a", "nft", "delete", "table", "ip", "director")
    rig.wait(
        lambda: "m_web_0" in rig.inside("a", "nft", "list", "ruleset"),
        "the rules do not come back",
    )


def test_a_second_daemon_is_refused(rig: Rig) -> None:
    argv = [sys.executable, "-m", "standfast", "director", "run", "--config"]
    space = ["ip", "netns", "exec", rig.space("a")]
    second = subprocess.run(
        [*space, *argv, str(rig.folder / "a.toml")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert 1 == second.returncode
    assert "another daemon listens on" in second.stderr


def test_upgrade_by_its_command(rig: Rig) -> None:
    """Under keep-alive load; each HAProxy is another process afterwards."""
    load = rig.job(job="requests", clients=10, pause=0.06, seconds=9)
    before = {name: rig.pid(name) for name in ("h1", "h2", "h3")}
    stop = "; ".join(
        f"[ {{name}} != {name} ] || {{{{ kill -USR1 {pid}; "
        f"while kill -0 {pid} && [ $(ps -o stat= -p {pid} | cut -c1) != Z ]; "
        "do sleep .05; done; "
        f"rm -f {rig.folder}/{name}.sock; }}}}"
        for name, pid in before.items()
    )
    start = (
        f"ip netns exec {rig.space('')}{{name}} haproxy -D -f {rig.folder}/{{name}}.cfg"
    )
    done = director(rig, "upgrade", "--soft-stop", stop, "--each", start, "--json")
    assert 0 == done.returncode, done.stderr
    turns = json.loads(done.stdout)["turns"]
    assert ["h1", "h2", "h3"] == [turn["backend"] for turn in turns]
    seen = rig.result(load)
    assert {"ok"} == set(seen)
    assert seen["ok"] > 1000


def test_no_daemon_no_answer(rig: Rig) -> None:
    with pytest.raises(ControlError, match="no director answers"):
        rig.ask("b", do="status")


def test_check_prints_the_rules(rig: Rig) -> None:
    shown = director(rig, "check", "--config", str(rig.folder / "a.toml"), "--json")
    document = json.loads(shown.stdout)
    assert [] == document["missing"]
    assert "dnat ip addr . port to jhash" in document["rules"]
