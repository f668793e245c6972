"""`director run` in a pair: who holds the addresses, and what is not believed."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT, need
from labs import built_lab
from prometheus_client.parser import text_string_to_metric_families

from standfast.director.control import ControlError
from standfast.director.lab.rig import NODES, VIRTUAL, Rig, python
from standfast.director.lab.scenarios import pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from standfast.host.process import Process

pytestmark = pytest.mark.system
UNIT = ROOT / "contrib" / "systemd" / "standfast-director.service"
COMMAND = [sys.executable, "-m", "standfast", "director"]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with built_lab() as rig:
        yield rig


def seen(rig: Rig, name: str) -> dict[str, Any]:
    return rig.ask(name, do="status", backends=[])


def relaunch(rig: Rig, name: str, *changes: tuple[str, str]) -> None:
    """Start a director on its file with changes; the one before it is gone."""
    path = rig.folder / f"{name}.toml"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    rig.start(name, [*COMMAND, "run", "--config", str(path)], space=name)
    rig.wait(lambda: rig.role(name) != "", f"director {name} does not start")


def kill(rig: Rig, name: str) -> None:
    rig.kill_all(name)
    rig.wait(lambda: not rig.alive(name), f"{name} does not die")


def fails(rig: Rig, seconds: float = 1.0) -> int:
    """How many of 200 new connections a second fail."""
    rows = rig.result(rig.job(job="load", rate=200, seconds=seconds))
    return sum(bool(error) for *_, error in rows)


def director(rig: Rig, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [*COMMAND, *words, "--socket", str(rig.folder / f"{name}.ctl")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


KEEPALIVED = """
global_defs {{
  vrrp_version 3
}}
vrrp_track_file rank {{
  file "{folder}/{name}.rank"
  weight 1
}}
vrrp_instance director {{
  state BACKUP
  interface front
  virtual_router_id 51
  priority 254
  advert_int 0.1
  track_file {{
    rank
  }}
  virtual_ipaddress {{ {address}/32 dev front }}
}}
"""


def keepalived(rig: Rig, name: str) -> Process:
    place = rig.folder / f"{name}.keepalived"
    place.write_text(KEEPALIVED.format(folder=rig.folder, name=name, address=VIRTUAL))
    place.chmod(0o600)
    argv = ["keepalived", "--dont-fork", "--vrrp", "-f", str(place)]
    argv += ["-p", f"{place}.pid", "-r", f"{place}.vrrp"]
    return rig.start(f"keepalived {name}", argv, space=name)


def test_keepalived_elects_by_our_ranks_and_we_follow(rig: Rig) -> None:
    """Rank by file, role by the kernel; the inner address and the door move along."""
    need("keepalived")
    for name in ("a", "b"):
        file = rig.folder / f"{name}.rank"
        file.write_text("-254\n")
        told = f'rank_file = "{file}"'
        rig.start_director(name, election="external", elect=told)
        rig.wait_up(name)
        keepalived(rig, name)
    rig.wait(lambda: rig.role("a") == "master", "a does not become master", 15)
    rig.wait(lambda: seen(rig, "a")["rank"] == 150, "a does not come to its rank")
    assert "-104\n" == (rig.folder / "a.rank").read_text()
    assert ["a"] == rig.holders()
    assert 0 == fails(rig)
    # a loses its way to two of three backends: its rank falls below b's.
    for node in ("h1", "h2"):
        rig.inside("a", "ip", "route", "add", "blackhole", f"{NODES[node]}/32")
    rig.wait(lambda: rig.role("b") == "master", "b does not take over", 10)
    rig.wait(lambda: rig.role("a") == "backup", "a does not leave")
    rig.wait(lambda: seen(rig, "a")["guard"], "a's door stays open")
    assert 0 == fails(rig)
    for node in ("h1", "h2"):
        rig.inside("a", "ip", "route", "del", "blackhole", f"{NODES[node]}/32")
    rig.wait(lambda: rig.role("a") == "master", "a does not come back", 10)
    assert 0 == fails(rig)
    # A clean stop asks keepalived to hand over; -9 moves nothing.
    rig.kill("a", signal.SIGTERM)
    rig.wait(lambda: rig.role("b") == "master", "b does not take over", 10)
    rig.wait_end("a")
    assert "-254\n" == (rig.folder / "a.rank").read_text()
    assert 0 == fails(rig)
    rig.kill("b", signal.SIGKILL)
    rig.clock.sleep(0.5)
    assert ["b"] == rig.holders()
    assert 0 == fails(rig)
    relaunch(rig, "b")
    rig.clock.sleep(1.0)
    assert ("master", 1) == (rig.role("b"), seen(rig, "b")["election"]["takeovers"])


BOTH = """
name = "{name}"
front = "front"
back = "back"
seed = 7
socket = "{folder}/{name}.ctl"
state = "{folder}/{name}.state"
[service.web]
virtual = ["10.50.0.100:80"]
[service.six]
virtual = ["[fd50::100]:8000"]
[probe.tcp]
port = 80
interval = "100ms"
{backends}
[election]
kind = "vrrp"
priority = {priority}
addresses = ["10.60.0.1@back", "fd60::1@back"]
hold = "500ms"
"""


def test_both_families_move_together(rig: Rig) -> None:
    """One election, IPv4 and IPv6 addresses, inner ones too; both serve clients."""
    six(rig, "client", "front", "fd50::2/64")
    backends = ""
    for at, (name, ip) in enumerate(NODES.items(), start=21):
        six(rig, name, "back", f"fd60::{at}/64")
        rig.inside(name, "ip", "-6", "route", "add", "default", "via", "fd60::1")
        argv = [*python("origin"), f"fd60::{at}"]
        rig.start(f"six {name}", argv, space=name)
        backends += f'[backend.{name}]\naddress = "{ip}"\naddress6 = "fd60::{at}"\n'
    for name, last, priority in (("a", 11, 150), ("b", 12, 100)):
        six(rig, name, "front", f"fd50::{last}/64")
        six(rig, name, "back", f"fd60::{last}/64")
        path = rig.folder / f"{name}.toml"
        path.write_text(
            BOTH.format(
                name=name, folder=rig.folder, backends=backends, priority=priority
            )
        )
        relaunch(rig, name)
        rig.wait_up(name)
    rig.wait(lambda: rig.role("a") == "master", "a does not become master")
    serves_both(rig, "a")
    rig.power_off("a")
    rig.wait(lambda: rig.role("b") == "master", "b does not take over")
    serves_both(rig, "b")


def serves_both(rig: Rig, holder: str) -> None:
    both = ("10.50.0.100", "fd50::100")
    for address in both:
        rig.wait(lambda: holder in rig.holders(address), f"{address} is not there")  # noqa: B023
    rig.clock.sleep(0.5)
    assert "" == seen(rig, holder)["election"]["unproved"]
    assert "virtual addresses was answered" in rig.log(holder)
    assert ["200", "200"] == [
        fetch(rig, *p) for p in zip(both, (80, 8000), strict=True)
    ]


def six(rig: Rig, name: str, side: str, address: str) -> None:
    argv = ["ip", "-6", "address", "add", address, "dev", side, "nodad"]
    rig.inside(name, *argv)


def fetch(rig: Rig, address: str, port: int) -> str:
    """The status of one request by the client."""
    code = (
        "import http.client as h, sys; c = h.HTTPConnection(sys.argv[1], "
        "int(sys.argv[2]), timeout=3); c.request('GET', '/'); "
        "print(c.getresponse().status)"
    )
    return rig.inside("client", sys.executable, "-c", code, address, str(port)).strip()


BROKEN = (
    "add table ip broken; "
    "add chain ip broken f { type filter hook forward priority 0; policy drop; }"
)


def test_a_takeover_that_nobody_answers_is_handed_over(rig: Rig) -> None:
    """Backends answer a's probes, but no client would come through it."""
    rig.start_director("b", election="vrrp")
    rig.wait_up("b")
    rig.wait(lambda: seen(rig, "b")["rank"] == 100, "b does not come to its rank")
    rig.wait(lambda: rig.role("b") == "master", "b does not take the addresses")
    assert "a connection through the virtual addresses was answered" in rig.log("b")
    rig.inside("a", "nft", BROKEN)
    rig.start_director("a", election="vrrp")
    rig.wait_up("a")
    rig.wait(lambda: rig.role("a") == "master", "a does not preempt")
    rig.wait(lambda: rig.role("a") == "backup", "a does not hand over")
    rig.wait(lambda: rig.holders() == ["b"], "b does not take over")
    assert 0 == fails(rig)
    rig.clock.sleep(1.5)
    row = seen(rig, "a")
    assert (1, "the last takeover was not proved") == (row["rank"], row["reason"])
    assert 1 == row["election"]["takeovers"]
    assert "no connection through the virtual addresses was answered" in rig.log("a")
    # With nobody else it serves all the same, and is believed when it works.
    rig.power_off("b")
    rig.wait(lambda: rig.role("a") == "master", "a does not take over")
    rig.wait(lambda: seen(rig, "a")["election"]["unproved"] != "", "no second proof")
    assert "NOT PROVED" in director(rig, "a", "status").stdout
    rig.inside("a", "nft", "delete", "table", "ip", "broken")
    rig.wait(lambda: seen(rig, "a")["election"]["unproved"] == "", "no third proof")
    rig.wait(lambda: seen(rig, "a")["rank"] == 150, "a stays low")
    assert 0 == fails(rig)


def test_another_configuration_keeps_addresses_where_they_are(rig: Rig) -> None:
    """Yield: it takes nothing from a living peer, and everything from a dead one."""
    pair(rig)
    rig.wait(lambda: seen(rig, "b")["peer"]["agrees"] == "same", "they do not agree")
    path = rig.folder / "a.toml"
    path.write_text(path.read_text().replace("seed = 24301", "seed = 24302"))
    rig.ask("a", do="reload")
    rig.wait(
        lambda: seen(rig, "b")["peer"]["differs"] == "configuration", "b sees nothing"
    )
    rig.wait(lambda: seen(rig, "b")["rank"] == 1, "b does not yield")
    assert ("master", 150) == (rig.role("a"), seen(rig, "a")["rank"])
    assert "WARNING the peer has another configuration" in rig.log("a")
    # a has the higher priority, but coming back it takes nothing from b.
    rig.kill("a", signal.SIGTERM)
    rig.wait(lambda: rig.role("b") == "master", "b does not take over")
    rig.wait_end("a")
    relaunch(rig, "a")
    rig.clock.sleep(2.0)
    assert ("backup", 1) == (rig.role("a"), seen(rig, "a")["rank"])
    assert "the peer has another configuration" == seen(rig, "a")["reason"]
    path.write_text(path.read_text().replace("seed = 24302", "seed = 24301"))
    rig.ask("a", do="reload")
    rig.wait(lambda: rig.role("a") == "master", "a does not come back")


REFUSE = ("key_file", 'on_difference = "refuse"\nkey_file')


def test_refusing_holds_for_the_first_mastership_too(rig: Rig) -> None:
    """While the peer is heard; when it is silent, only what nobody else holds."""
    rig.start_director("b", election="vrrp")
    rig.start_director("a", election="vrrp")
    for name in ("a", "b"):
        kill(rig, name)
    relaunch(rig, "b", REFUSE, ("seed = 24301", "seed = 24302"))
    rig.wait(lambda: rig.role("b") == "master", "b does not serve alone")
    rig.clock.sleep(1.0)
    relaunch(rig, "a", REFUSE)
    rig.clock.sleep(2.5)
    assert (0, "backup") == (seen(rig, "a")["rank"], rig.role("a"))
    assert ("master", 100) == (rig.role("b"), seen(rig, "b")["rank"])
    rig.kill("b", signal.SIGTERM)
    rig.wait_end("b")
    rig.wait(lambda: rig.role("a") == "master", "a does not serve alone")
    rig.clock.sleep(1.0)
    assert 150 == seen(rig, "a")["rank"]


def test_standby_outlives_the_daemon_and_needs_a_successor(rig: Rig) -> None:
    pair(rig)
    rig.wait(lambda: seen(rig, "b")["rank"] == 100, "b does not come to its rank")
    rig.wait(lambda: seen(rig, "a")["peer"]["rank"] == 100, "a does not hear b's rank")
    assert 0 == director(rig, "a", "standby").returncode
    rig.wait(lambda: rig.role("b") == "master", "b does not take over", 1.0)
    rig.wait(lambda: rig.holders() == ["b"], "a keeps the address", 1.0)
    rig.kill("a", signal.SIGKILL)
    rig.wait(lambda: not rig.alive("a"), "a does not die")
    relaunch(rig, "a")
    rig.clock.sleep(1.5)
    assert (0, "backup") == (seen(rig, "a")["rank"], rig.role("a"))
    assert "standby" in director(rig, "a", "status").stdout
    refused = director(rig, "b", "standby")
    assert 1 == refused.returncode
    assert "no other director is known to be fit" in refused.stderr
    assert 0 == director(rig, "a", "resume").returncode
    rig.wait(lambda: rig.role("a") == "master", "a does not come back")
    rig.kill("b", signal.SIGTERM)
    rig.wait_end("b")
    assert 0 == director(rig, "a", "standby", "--force").returncode
    rig.wait(lambda: rig.holders() == [], "a keeps the address")


def test_the_unit_s_last_step_removes_a_zombie(rig: Rig) -> None:
    """Daemon and watchdog are dead; the line is the one in the unit file."""
    (line,) = re.findall(r"^ExecStopPost=-?(.*)$", UNIT.read_text(), re.MULTILINE)
    words = [*shlex.split(line)]
    assert ["director", "release", "--config"] == words[1:4]
    words = [sys.executable, "-m", "standfast", *words[1:4], str(rig.folder / "a.toml")]
    pair(rig)
    rig.wait(lambda: rig.holders() == ["a"], "a holds nothing")
    with pytest.raises(Exception, match="a director answers on"):
        rig.inside("a", *words)
    kill(rig, "a")
    rig.wait(lambda: rig.holders() == ["a", "b"], "b does not take over")
    said = json.loads(rig.inside("a", *words, "--json"))
    assert ("10.50.0.12", [VIRTUAL]) == (said["master"], said["removed"])
    assert ["b"] == rig.holders()
    assert "10.60.0.1/" not in rig.inside("a", "ip", "address", "show", "dev", "back")
    assert 0 == fails(rig)
    assert "no address was left here" in rig.inside("a", *words)
    # With nobody else the address stays where traffic flows.
    kill(rig, "b")
    told = [*words[:-1], str(rig.folder / "b.toml")]
    assert "nobody else was heard" in rig.inside("b", *told)
    assert ["b"] == rig.holders()
    assert 0 == fails(rig)


def test_the_election_s_metrics(rig: Rig) -> None:
    """Roles, ranks and everything that was not believed, as Prometheus reads them."""
    listen = '[status]\nlisten = "127.0.0.1:9180"\n'
    for name in ("a", "b"):
        secret = f'passphrase_file = "{rig.secret()}"'
        rig.start_director(name, election="vrrp", elect=secret, more=listen)
        rig.wait_up(name)
    rig.wait(lambda: rig.role("a") == "master", "a does not become master")
    rig.wait(lambda: seen(rig, "b")["rank"] == 100, "b does not come to its rank")
    words = {"job": "adverts", "protocol": "vrrp", "interface": "front", "group": 51}
    job = [*python("forger"), json.dumps(words | {"address": VIRTUAL})]
    sent = rig.result(rig.start("forger", job, space="client"))
    rig.clock.sleep(0.3)
    rig.wait(lambda: fetched(rig)["rank",] == 100, "b's rank is not there")
    rig.wait(lambda: fetched(rig)["peer_rank",] == 150, "a's rank is not there")
    metrics = fetched(rig)
    for reason, count in sent.items():
        assert count <= metrics["adverts_refused_total", reason]
    assert 0 == metrics["adverts_refused_total", "far"]
    assert 1 == sum(metrics["role", r] for r in ("master", "backup", "init"))
    assert 1 == metrics["peer_up",]
    assert seen(rig, "b")["election"]["takeovers"] == metrics["takeovers_total",]
    assert 0 == metrics["peer_differs", "configuration"]
    assert (
        0 == metrics["unproved",] + metrics["standby",] + metrics["election_problem",]
    )


def fetched(rig: Rig) -> dict[tuple[str, ...], float]:
    """What b's metrics are now, by name and labels."""
    code = "import sys, urllib.request as u"
    code += "; print(u.urlopen(sys.argv[1]).read().decode())"
    url = "http://127.0.0.1:9180/metrics"
    text = rig.inside("b", sys.executable, "-c", code, url)
    return {
        (sample.name.removeprefix("standfast_director_"), *sample.labels.values()): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_no_daemon_is_no_success(rig: Rig) -> None:
    with pytest.raises(ControlError, match="no director answers"):
        rig.ask("a", do="standby")
