"""What an administrator copies: units, scripts, pf.conf lines, the ten lines."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT, need

from standfast.director import plan
from standfast.director.config import parse_config
from standfast.director.drivers.pf import PfDriver
from standfast.director.drivers.pf_grammar import ANCHOR_LINES
from standfast.director.election.freebsd import FreebsdCarp
from standfast.director.model import Wanted
from standfast.director.opening import inner_cards, kernel_group, open_election
from standfast.director.plane import Plane
from standfast.testing.host import Line, ScriptedHost

if TYPE_CHECKING:
    from pathlib import Path

CONTRIB = ROOT / "contrib"
PAGE = (ROOT / "docs" / "director-freebsd.md").read_text()
UNIT = CONTRIB / "systemd" / "standfast-director.service"
RC_SCRIPT = CONTRIB / "freebsd" / "standfast_director"


def ten_lines() -> str:
    block = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    return block[1]


def test_the_page_s_configuration_is_ten_lines_and_good() -> None:
    """It parses, opens the kernel's election, and makes rules of three backends."""
    text = ten_lines()
    config = parse_config(text, "director.toml")
    state = plan.step(
        plan.State(),
        plan.Configured(
            config.services, config.backends, config.paces, config.policy, 0.0
        ),
    ).state
    wanted = Wanted(
        config.services,
        config.backends,
        plan.tables(state),
        guard=False,
        front=config.file.front,
    )
    pf = PfDriver(ScriptedHost([Line(("pfctl", "-nf", "-"), 1, "", "")]))
    rules = pf.rules(wanted)

    assert 10 == len(text.strip().splitlines())
    assert (("igb0", 1), ("igb1", 1)) == kernel_group(config)
    assert {
        "web_4_443": ("10.2.1.251", "10.2.1.252", "10.2.1.253"),
        "web_4_443_all": ("10.2.1.251", "10.2.1.252", "10.2.1.253"),
    } == rules.tables
    host = ScriptedHost([])
    assert () == inner_cards(config, host)
    plane = Plane(pf, lambda: wanted, guard=True)
    assert isinstance(open_election(config, plane, host), FreebsdCarp)


def test_pf_conf_and_page_call_the_anchor_in_pf_s_order() -> None:
    """Translation before filtering; the names are those that the driver loads."""
    lines = (CONTRIB / "freebsd" / "pf.conf").read_text().splitlines()
    calls = [line.format("director") for line in ANCHOR_LINES]

    assert calls == [line for line in lines if line in calls]
    assert f"```pf\n{chr(10).join(calls)}\n```" in PAGE


def test_the_rc_script_is_sh() -> None:
    need("sh")
    subprocess.run(["sh", "-n", str(RC_SCRIPT)], check=True, timeout=10)

    assert RC_SCRIPT.stat().st_mode & 0o111


def test_systemd_reads_the_unit() -> None:
    """No unknown setting, and a watchdog with notification."""
    need("systemd-analyze")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(UNIT)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # The program need not be installed on the machine that tests.
    complaints = [
        line
        for line in done.stderr.splitlines()
        if UNIT.name in line and "is not executable" not in line
    ]
    text = UNIT.read_text()

    assert [] == complaints
    assert "Type=notify" in text
    assert "WatchdogSec=" in text


@pytest.mark.parametrize("path", [UNIT, RC_SCRIPT], ids=lambda path: path.name)
def test_what_they_start_exists(path: Path) -> None:
    """The command line that units and scripts give is one that the parser takes."""
    text = path.read_text().replace("\\\n", " ")
    start = re.search(r"director run (.*)", text)
    assert start is not None
    options = re.findall(r"(--\w+)", start[0])
    assert "--config" in options
    command = shutil.which("standfast", path=str(ROOT / ".venv" / "bin"))
    if command is None:
        pytest.skip("standfast is not installed in .venv")
    done = subprocess.run(
        [command, "director", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for option in options:
        assert option in done.stdout
