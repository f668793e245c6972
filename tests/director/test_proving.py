"""Proof through the address: packets that kernels take, and what check predicts."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest
from conftest import need
from hypothesis import given
from hypothesis import strategies as st

from standfast.director.config import parse_config
from standfast.director.election.checksum import internet_checksum
from standfast.director.model import Address
from standfast.director.preflight import (
    RETRANSMISSIONS,
    preflight,
    stall_seconds,
    takeover_seconds,
)
from standfast.director.tcp_packet import Flag, Segment, decode, encode
from standfast.errors import UsageError
from standfast.testing.host import ScriptedHost

if TYPE_CHECKING:
    from pathlib import Path

ports = st.integers(1, 65535)
numbers = st.integers(0, 2**32 - 1)
flags = st.sampled_from([Flag.SYN, Flag.SYN | Flag.ACK, Flag.RST, Flag.RST | Flag.ACK])


def ends(version: int) -> st.SearchStrategy[Address]:
    kind = IPv4Address if version == 4 else IPv6Address
    ips = st.integers(0, 2 ** (32 if version == 4 else 128) - 1)
    return st.builds(Address, ips.map(lambda n: str(kind(n))), ports)


segments = st.sampled_from([4, 6]).flatmap(
    lambda version: st.builds(
        Segment, ends(version), ends(version), flags, numbers, numbers
    )
)


@given(segments)
def test_what_is_written_is_read(segment: Segment) -> None:
    packet = encode(segment)
    assert segment == decode(packet)
    start = 20 if packet[0] >> 4 == 4 else 40
    head = packet[12:20] if start == 20 else packet[8:40]
    pseudo = head + (20).to_bytes(4, "big") + (6).to_bytes(4, "big")
    assert 0 == internet_checksum(pseudo + packet[start:])
    if start == 20:
        assert 0 == internet_checksum(packet[:20])


@given(st.binary(max_size=80))
def test_no_packet_breaks_the_reader(data: bytes) -> None:
    found = decode(data)
    assert found is None or found.source.family == found.target.family


# Proves addresses of its own namespace: one that is served, one that is not.
PROVE = """
import asyncio, json, socket, sys
from standfast.director.model import Address
from standfast.director.proving import TunnelProver
from standfast.host.local import LocalHost

async def main():
    prove = TunnelProver(LocalHost(), ["198.18.0.2", "2001:2::2"])
    asked = [Address(ip, port) for ip in ("10.9.9.9", "fd09::9") for port in (80, 81)]
    with socket.create_server(("10.9.9.9", 80)), socket.create_server(
        ("fd09::9", 80), family=socket.AF_INET6
    ):
        for _ in range(3):
            found = sorted(str(one) for one in await prove(asked))
            print(json.dumps(found))

asyncio.run(main())
"""


@pytest.mark.system
def test_a_kernel_answers_for_what_is_served() -> None:
    """Three times, and no interface stays behind."""
    need("ip")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    space = f"sfproof{os.getpid()}"
    inside = ("ip", "netns", "exec", space)

    def run(*argv: str) -> str:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=True, timeout=20
        )
        return done.stdout

    run("ip", "netns", "add", space)
    try:
        run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", space, "address", "add", "10.9.9.9/32", "dev", "lo")
        run("ip", "-n", space, "address", "add", "fd09::9/128", "dev", "lo", "nodad")
        out = run(*inside, sys.executable, "-c", PROVE)
        assert ['["10.9.9.9:80", "[fd09::9]:80"]'] * 3 == out.splitlines()
        assert "sfproof" not in run("ip", "-n", space, "-o", "link")
    finally:
        run("ip", "netns", "del", space)


CONFIG = """
front = "eth0"
[service.web]
virtual = ["192.0.2.1:80"]
mode = "{mode}"
[backend.h1]
address = "10.0.0.1"
[election]
{election}
"""


def configured(election: str, mode: str = "nat", extra: str = "") -> str:
    return CONFIG.format(mode=mode, election=election) + extra


@given(st.floats(0, 20))
def test_a_stall_ends_with_a_retransmission_after_the_outage(outage: float) -> None:
    stall = stall_seconds(outage)
    assert stall >= outage
    assert stall in RETRANSMISSIONS or outage > RETRANSMISSIONS[-1]


def test_takeovers_are_predicted_from_the_timers() -> None:
    """Three intervals and a skew; 3 s and a skew with CARP; else not ours to say."""
    vrrp = parse_config(configured('kind = "vrrp"\npriority = 128'))
    assert pytest.approx(0.35) == takeover_seconds(vrrp)
    carp = configured('kind = "carp"\npriority = 254\npassphrase_file = "/x"')
    assert pytest.approx(3.0) == takeover_seconds(parse_config(carp))
    assert takeover_seconds(parse_config(configured('kind = "external"'))) is None


@pytest.mark.parametrize(
    ("election", "complaint"),
    [
        ('kind = "carp"', "election.passphrase_file: is missing"),
        ('kind = "bgp"\naddresses = ["10.0.0.9@eth1"]', "with bgp no address moves"),
        ('kind = "freebsd-carp"', 'needs driver = "pf"'),
        ('kind = "vrrp"\nrank_file = "/run/rank"', 'is for kind = "external"'),
        ('kind = "vrrp"\nid = 256', "election.id: 256 is not between 1 and 255"),
        ('kind = "vrrp"\nverify_from = ["nowhere"]', "election.verify_from: 'nowhere'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(election: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse_config(configured(election))


def test_check_warns_of_what_would_surprise() -> None:
    bgp = parse_config(configured('kind = "bgp"\nrelay = "/nowhere/bgp.sock"'))
    found = preflight(bgp, ScriptedHost([]))
    assert "election.relay: /nowhere is no folder" in found.missing
    assert any("mode nat breaks connections" in note for note in found.notes)
    quiet = parse_config(
        configured('kind = "bgp"\nrelay = "/run/bgp.sock"', "stateless")
    )
    assert ((), ()) == (
        preflight(quiet, ScriptedHost([])).notes,
        preflight(quiet, ScriptedHost([])).missing,
    )


@pytest.mark.parametrize(
    ("mode", "text", "complaint"),
    [
        (0o644, "secret", "others may read"),
        (0o600, "", "is empty"),
        (None, "", "no such file"),
    ],
)
def test_check_refuses_a_passphrase_that_is_none(
    tmp_path: Path, mode: int | None, text: str, complaint: str
) -> None:
    path = tmp_path / "passphrase"
    if mode is not None:
        path.write_text(text)
        path.chmod(mode)
    config = configured(f'kind = "vrrp"\npassphrase_file = "{path}"')
    (lack,) = preflight(parse_config(config), ScriptedHost([])).missing
    assert complaint in lack.lower()
