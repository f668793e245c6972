"""The nftables driver against a real kernel, in a namespace of its own."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from conftest import need

from standfast.director.drivers import DriverError
from standfast.director.drivers.nftables import NftablesDriver
from standfast.director.maglev import slot_of
from standfast.director.model import (
    Address,
    Backend,
    Capabilities,
    Change,
    Mode,
    Pin,
    Service,
    Wanted,
)
from standfast.host.local import LocalHost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from standfast.host import Result

pytestmark = pytest.mark.system
VIRTUAL = (Address("192.0.2.1", 80), Address("2001:db8::1", 80))


class InSpace(LocalHost):
    """Runs everything in one network namespace."""

    def __init__(self, space: str) -> None:
        super().__init__()
        self.space = space

    def run(self, argv: Sequence[str], **keywords: Any) -> Result:
        return super().run(["ip", "netns", "exec", self.space, *argv], **keywords)


@pytest.fixture
def driver() -> Iterator[NftablesDriver]:
    need("nft", "ip", "sysctl")
    if os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces")
    space = f"sft{os.getpid()}"
    subprocess.run(["ip", "netns", "add", space], check=True)
    host = InSpace(space)
    try:
        yield NftablesDriver(host)
    finally:
        host.close()
        subprocess.run(["ip", "netns", "del", space], check=True)


def wanted(
    mode: Mode = "nat", slots: tuple[str, ...] = ("a", "b"), **more: Any
) -> Wanted:
    service = Service("web", VIRTUAL, ("a", "b"), mode, 7, 11)
    backends = {
        name: Backend(
            name,
            Address(f"10.0.0.{number}"),
            address6=Address(f"2001:db8:1::{number}"),
            mac=f"02:00:00:00:00:0{number}",
        )
        for number, name in enumerate("ab", 1)
    }
    table = {"web": tuple(slots[i % len(slots)] for i in range(11))}
    keywords = {"guard": False, "front": "lo", "back": "lo", **more}
    return Wanted((service,), backends, table, **keywords)


def settle(driver: NftablesDriver, want: Wanted) -> list[Change]:
    changes = driver.plan(driver.observe(want), want)
    driver.apply(changes)
    return changes


@pytest.mark.parametrize("mode", ["nat", "stateless", "dsr"])
def test_what_was_applied_is_observed_and_needs_no_more(
    driver: NftablesDriver, mode: Mode
) -> None:
    """Loading, a change of slots and of the guard; each converges in one step."""
    for want in (
        wanted(mode, guard=True),
        wanted(mode, ("a",)),
        wanted(mode, ("b", "b", "a")),
    ):
        settle(driver, want)
        seen = driver.observe(want)
        assert dict(want.table) == seen.table
        assert want.guard is seen.guard
        assert [] == driver.plan(seen, want)
        # People look by this, and nft 1.0.6 dies of maps declared by a hash.
        driver._host.run(["nft", "list", "ruleset"])


def test_a_change_of_slots_is_a_delta(driver: NftablesDriver) -> None:
    settle(driver, wanted())
    changes = settle(driver, wanted(slots=("a",)))
    assert ["m_web_0: 5 set, 0 removed", "m_web_1: 5 set, 0 removed"] == [
        change.why for change in changes
    ]


def test_pins_are_kept_and_go(driver: NftablesDriver) -> None:
    pin = Pin(Address("198.51.100.7", 51812), VIRTUAL[0], "b", 0.0)
    settle(driver, wanted(pins=(pin,)))
    assert (pin,) == driver.observe(wanted()).pins
    settle(driver, wanted())
    assert () == driver.observe(wanted()).pins


@pytest.mark.parametrize(
    "by_hand",
    [
        "add rule ip director inp counter",
        "flush chain ip director prer",
        "delete table ip6 director",
        "delete element ip director m_web_0 { 3 }",
        "add element ip director guarded { 192.0.2.1 . 80 }",
        "add element ip director b_web_0 { 10.9.9.9 . 80 }",
    ],
)
def test_what_a_hand_has_altered_is_mended(
    driver: NftablesDriver, by_hand: str
) -> None:
    want = wanted()
    settle(driver, want)
    driver.apply([Change(by_hand, "by hand")])
    assert settle(driver, want)
    assert [] == driver.plan(driver.observe(want), want)


def test_a_refused_change_leaves_the_old_rules(driver: NftablesDriver) -> None:
    want = wanted()
    settle(driver, want)
    good = "delete element ip director m_web_0 { 3 }"
    with pytest.raises(DriverError):
        driver.apply([Change(good, ""), Change("add nonsense", "")])
    assert [] == driver.plan(driver.observe(want), want)


def test_another_daemon_takes_the_rules_over(driver: NftablesDriver) -> None:
    """Nothing is remembered but what the kernel holds."""
    settle(driver, wanted())
    again = NftablesDriver(driver._host)
    assert [] == again.plan(again.observe(wanted()), wanted())


def test_without_nft_it_says_so(tmp_path: object) -> None:
    class Bare(LocalHost):
        def run(self, argv: Sequence[str], **keywords: Any) -> Result:
            return super().run([f"{tmp_path}/{argv[0]}", *argv[1:]], **keywords)

    found: Capabilities = NftablesDriver(Bare()).detect()
    assert () == found.modes
    assert "cannot run" in found.missing[0]


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
def test_the_kernel_hashes_to_the_slot_that_we_compute(
    driver: NftablesDriver, ip: str
) -> None:
    """For 200 source ports: a counter on our slot alone counts the packet."""
    host = driver._host
    assert isinstance(host, InSpace)
    host.run(["ip", "link", "set", "lo", "up"])
    kind = "ip6" if ":" in ip else "ip"
    rules = "\n".join(
        f"udp sport {port} jhash {kind} saddr . udp sport mod 251 seed 0x5eed "
        f"{slot_of(Address(ip, port), 251, 0x5EED)} counter name hit"
        for port in range(20000, 20200)
    )
    table = f"table {kind} probe {{\ncounter hit {{ }}\nchain c {{\n"
    table += f"type filter hook output priority 0;\n{rules}\n}}\n}}\n"
    host.run(["nft", "-f", "-"], stdin=table.encode())
    send = (
        "import socket\n"
        f"for p in range(20000, 20200):\n"
        f"    s = socket.socket(socket.AF_INET{6 if ':' in ip else ''}, "
        f"socket.SOCK_DGRAM)\n"
        f"    s.bind(('{ip}', p))\n    s.sendto(b'x', ('{ip}', 9))\n"
    )
    host.run(["python3", "-c", send])
    listed = host.run(["nft", "list", "counter", kind, "probe", "hit"]).stdout.decode()
    assert "packets 200 " in listed
