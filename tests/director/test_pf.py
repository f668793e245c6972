"""pf: rules, plans and what pfctl prints, release by release."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from standfast.director.drivers import DriverError, pf_grammar, pf_output
from standfast.director.drivers.pf import PfDriver, PfObserved, probe_text
from standfast.director.drivers.pf_grammar import Pool
from standfast.director.model import Address, Backend, Pin, Service, Wanted
from standfast.errors import CommandNotFoundError, UsageError
from standfast.testing.host import Line, ScriptedHost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.host import Result

CAPTURES = sorted((ROOT / "tests" / "captures").glob("*-pfctl-*.json"))
VIRTUAL = Address("203.0.113.10", 443)
BACKENDS = {
    f"b{n}": Backend(f"b{n}", Address(f"10.2.1.{248 + n}", 443)) for n in range(4)
}
WEB = Service("web", (VIRTUAL,), tuple(BACKENDS), seed=0x5EED)


def wanted(*serving: str, pins: tuple[Pin, ...] = ()) -> Wanted:
    slots = tuple(serving[n % len(serving)] for n in range(7)) if serving else ()
    return Wanted((WEB,), BACKENDS, {"web": slots}, False, pins, "igb0")


class RecordingHost(ScriptedHost):
    """Plays a script and keeps what was asked, with its input."""

    def __init__(self, lines: Sequence[Line]) -> None:
        super().__init__(lines)
        self.asked: list[tuple[str, str]] = []

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        ok: Sequence[int] = (0,),
        timeout: float | None = None,
    ) -> Result:
        self.asked.append((" ".join(argv), stdin.decode()))
        return super().run(argv, stdin=stdin, ok=ok, timeout=timeout)


def line(command: str, stdout: str = "", code: int = 0, stderr: str = "") -> Line:
    return Line(tuple(command.split()), code, stdout, stderr)


def driver(pool: Pool, *lines: Line, **options: Any) -> tuple[PfDriver, RecordingHost]:
    probe = line("pfctl -nf -", code=0 if pool is Pool.HASH else 1)
    host = RecordingHost([probe, *lines])
    return PfDriver(host, **options), host


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_captured_output_is_read_right(path: Any) -> None:
    """Each capture names its source, says how it was got, and is read as it says."""
    capture = json.loads(path.read_text())

    assert capture["how"] in ("captured", "transcribed", "synthesized")
    assert capture["source"]
    READERS[capture["reads"]](capture)


def _states(capture: dict[str, Any]) -> None:
    found = pf_output.states(capture["stdout"])
    expect = capture["expect"]
    ip, _, port = expect["backend"].partition(":")
    backend = Address(ip, int(port))
    assert expect["count"] == len(found)
    assert expect["open"] == len(pf_output.flows_of(found, backend))
    assert expect["touching"] == len(pf_output.touching(found, backend))
    ids = [f"{s.id}/{s.creator}" for s in found if s.id]
    assert expect.get("ids", []) == ids


def _pool(capture: dict[str, Any]) -> None:
    answer = Line(
        tuple(capture["argv"]), capture["code"], capture["stdout"], capture["stderr"]
    )
    assert Pool[capture["expect"]] is PfDriver(ScriptedHost([answer])).pool()


def _missing(capture: dict[str, Any]) -> None:
    answer = Line(tuple(capture["argv"]), capture["code"], "", capture["stderr"])
    lines = [
        answer,
        dataclasses.replace(
            answer,
            argv=("pfctl", "-a", "director", "-t", "web_4_443_all", "-T", "show"),
        ),
        line("pfctl -a director -s rules"),
        line("pfctl -a director -s nat"),
    ]
    pf, _ = driver(Pool.STICKY, *lines)
    assert {} == pf.observe(wanted("b1")).members


READERS: dict[str, Any] = {
    "states": _states,
    "pool": _pool,
    "missing": _missing,
    "source_nodes": lambda c: _same(
        c, [[n.client, n.to, n.states] for n in pf_output.source_nodes(c["stdout"])]
    ),
    "members": lambda c: _same(c, sorted(pf_output.members(c["stdout"]))),
    "enabled": lambda c: _same(c, pf_output.enabled(c["stdout"])),
    "killed": lambda c: _same(c, pf_output.killed(c["stderr"])),
    "count_rules": lambda c: _same(c, pf_output.count_rules(c["stdout"])),
}


def _same(capture: dict[str, Any], actual: object) -> None:
    assert capture["expect"] == actual


def test_the_whole_anchor_is_what_check_prints() -> None:
    """The rules, word for word; tables first, translation before filters."""
    pf, _ = driver(Pool.HASH)
    rules = pf.rules(wanted("b1", "b2"))
    key = pf_grammar.key(WEB)

    expected = f"""\
table <web_4_443> persist {{ 10.2.1.249 10.2.1.250 }}
table <web_4_443_all> persist {{ 10.2.1.248 10.2.1.249 10.2.1.250 10.2.1.251 }}
nat on igb0 inet proto tcp from <web_4_443_all> port 443 to any -> 203.0.113.10 \
static-port
rdr on igb0 inet proto tcp from any to 203.0.113.10 port 443 -> <web_4_443> port 443 \
source-hash {key}
pass in quick on igb0 inet proto tcp from any to <web_4_443_all> port 443 flags any \
keep state (sloppy)
pass out quick inet proto tcp from any to <web_4_443_all> port 443 flags any \
keep state (sloppy)
pass in quick inet proto tcp from <web_4_443_all> port 443 to any flags any \
keep state (sloppy)
pass out quick on igb0 inet proto tcp from 203.0.113.10 port 443 to any flags any \
keep state (sloppy)
block drop in quick on igb0 inet proto tcp from any to 203.0.113.10 port 443
block drop in quick inet from 0.0.0.0 to 0.0.0.0 label "director {rules.fingerprint}"
"""
    assert expected == rules.text()


def test_the_key_is_the_same_everywhere_and_of_pf_s_form() -> None:
    """Two directors with one seed hash alike; another seed hashes otherwise."""
    other = dataclasses.replace(WEB, seed=1)

    assert pf_grammar.key(WEB) == pf_grammar.key(dataclasses.replace(WEB))
    assert pf_grammar.key(WEB) != pf_grammar.key(other)
    assert re.fullmatch("0x[0-9a-f]{32}", pf_grammar.key(WEB))


def test_an_older_pfctl_is_given_no_hash_of_a_table() -> None:
    pf, host = driver(Pool.STICKY)
    text = pf.rules(wanted("b1")).text()

    assert "-> <web_4_443> port 443 round-robin sticky-address\n" in text
    assert "source-hash" not in text
    assert [("pfctl -nf -", probe_text())] == host.asked


def test_a_whole_netblock_is_hashed_on_any_release() -> None:
    """While every address of the block serves; else the table of those that do."""
    pf, _ = driver(Pool.STICKY, netblocks={"web": "10.2.1.248/30"})
    blocks = {**BACKENDS}
    hosts = [str(h) for h in ipaddress.ip_network("10.2.1.248/30")]
    assert hosts == [b.address.ip for b in blocks.values()]

    every = pf.rules(wanted(*BACKENDS)).text()
    fewer = pf.rules(wanted("b1")).text()

    assert f"-> 10.2.1.248/30 port 443 source-hash {pf_grammar.key(WEB)}\n" in every
    assert "-> <web_4_443> port 443 round-robin sticky-address\n" in fewer


def test_a_netblock_with_a_stranger_is_refused() -> None:
    pf, _ = driver(Pool.STICKY, netblocks={"web": "10.2.1.248/29"})
    with pytest.raises(UsageError, match="not exactly the backends"):
        pf.rules(wanted(*BACKENDS))


def test_backends_on_different_ports_are_refused() -> None:
    """pf translates a table to one port; guessing one would break a backend."""
    backends = BACKENDS | {"b1": Backend("b1", Address("10.2.1.249", 8443))}
    pf, _ = driver(Pool.HASH)
    with pytest.raises(UsageError, match="different ports"):
        pf.rules(dataclasses.replace(wanted("b1"), backends=backends))


def test_a_pin_is_a_rule_before_the_hash() -> None:
    pin = Pin(Address("198.51.100.7", 51812), VIRTUAL, "b3", 0.0)
    pf, _ = driver(Pool.HASH)
    rules = pf.rules(wanted("b1", pins=(pin,)))

    assert (
        "rdr on igb0 inet proto tcp from 198.51.100.7 port 51812 to 203.0.113.10 "
        "port 443 -> 10.2.1.251 port 443"
    ) == rules.translation[0]


def test_two_virtual_addresses_cannot_share_a_way_back() -> None:
    """A packet from the backend names no virtual address: the second has none.

    And no rule is loaded twice, or the number of rules would never be right.
    """
    second = Address("203.0.113.11", 443)
    service = dataclasses.replace(WEB, virtual=(VIRTUAL, second))
    pf, _ = driver(Pool.HASH)
    rules = pf.rules(dataclasses.replace(wanted("b1"), services=(service,)))

    assert ["nat", "rdr", "rdr"] == [line[:3] for line in rules.translation]
    assert len(set(rules.filters)) == len(rules.filters)
    assert ["web at 203.0.113.11:443"] == [n.partition(": ")[0] for n in rules.notes]


def test_ipv6_has_tables_and_rules_of_its_own() -> None:
    backends = {
        "b1": Backend("b1", Address("10.2.1.1"), address6=Address("2001:db8::1"))
    }
    service = Service(
        "web", (Address("192.0.2.1", 80), Address("2001:db8::80", 80)), ("b1",)
    )
    pf, _ = driver(Pool.HASH)
    rules = pf.rules(Wanted((service,), backends, {"web": ("b1",)}, guard=False))

    assert {
        "web_4_80": ("10.2.1.1",),
        "web_4_80_all": ("10.2.1.1",),
        "web_6_80": ("2001:db8::1",),
        "web_6_80_all": ("2001:db8::1",),
    } == rules.tables
    assert 2 * 2 == len(rules.translation)


@given(
    st.text(min_size=1, max_size=60),
    st.sampled_from([4, 6]),
    st.integers(min_value=1, max_value=65535),
)
def test_every_table_name_fits(name: str, family: int, port: int) -> None:
    """Whatever a service is called, pf takes its tables' names."""
    table = pf_grammar.table_name(name, family, port)

    assert re.fullmatch(r"[A-Za-z0-9_]{1,27}", table)


def observed(pf: PfDriver, what: Wanted) -> PfObserved:
    """What a kernel would hold that was given exactly this."""
    rules = pf.rules(what)
    return PfObserved(
        present=True,
        fingerprint=rules.fingerprint,
        members={name: frozenset(held) for name, held in rules.tables.items()},
        rules=len(rules.translation) + len(rules.filters) + 1,
    )


@given(
    st.sets(st.sampled_from(sorted(BACKENDS))),
    st.sets(st.sampled_from(sorted(BACKENDS))),
    st.sampled_from(list(Pool)),
)
def test_a_plan_is_empty_exactly_when_nothing_is_to_do(
    before: set[str], after: set[str], pool: Pool
) -> None:
    """What is held already is not touched; a change is one transaction first."""
    pf, _ = driver(pool)
    changes = pf.plan(observed(pf, wanted(*sorted(before))), wanted(*sorted(after)))

    if before == after:
        assert [] == changes
    else:
        assert " -f -\n" in changes[0].command
        assert 1 == sum("-f -" in change.command for change in changes)


def test_leaving_a_sticky_table_forgets_the_source_nodes() -> None:
    """Only the tables are loaded, then nodes to the leaver are killed, in order."""
    pf, _ = driver(Pool.STICKY)
    changes = pf.plan(observed(pf, wanted("b1", "b2")), wanted("b1"))

    assert [
        "pfctl -a director -o none -T load -f -",
        "pfctl -K 0.0.0.0/0 -K 10.2.1.250",
    ] == [change.command.partition("\n")[0] for change in changes]
    assert "rdr" not in changes[0].command
    assert "table web_4_443: -10.2.1.250" == changes[0].why


def test_leaving_a_hashed_table_is_one_command() -> None:
    pf, _ = driver(Pool.HASH)
    changes = pf.plan(observed(pf, wanted("b1", "b2")), wanted("b1"))

    assert ["pfctl -a director -o none -f -"] == [
        c.command.partition("\n")[0] for c in changes
    ]


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        ({"present": False}, "no rules of ours are loaded"),
        ({"fingerprint": "0" * 16}, "rules 0000000000000000 become"),
        ({"rules": 3}, "somebody changed our rules: 3, not 8"),
        ({"members": {}}, "table web_4_443 is missing"),
    ],
)
def test_drift_is_put_right_with_its_reason(edit: dict[str, Any], why: str) -> None:
    """An anchor that was edited or flushed by hand is loaded again."""
    pf, _ = driver(Pool.HASH)
    drifted = dataclasses.replace(observed(pf, wanted("b1")), **edit)
    changes = pf.plan(drifted, wanted("b1"))

    assert 1 == len(changes)
    assert why in changes[0].why


def test_observing_names_the_backends_that_serve() -> None:
    pf, _ = driver(Pool.HASH)
    stamp = pf.rules(wanted("b1", "b2")).fingerprint
    rule = (
        f'block drop in quick inet from 0.0.0.0 to 0.0.0.0 label "director {stamp}"\n'
    )
    pf, _ = driver(
        Pool.HASH,
        line("pfctl -a director -s rules", rule),
        line("pfctl -a director -s nat", "rdr on igb0 ...\n"),
        line("pfctl -a director -t web_4_443 -T show", "   10.2.1.250\n   10.9.9.9\n"),
        line("pfctl -a director -t web_4_443_all -T show", "   10.2.1.250\n"),
    )
    seen = pf.observe(wanted("b1", "b2"))

    assert (True, stamp, 2) == (seen.present, seen.fingerprint, seen.rules)
    assert {"web": ("b2",)} == seen.table


def test_a_table_that_cannot_be_read_is_an_error_not_an_empty_table() -> None:
    pf, _ = driver(
        Pool.HASH,
        line("pfctl -a director -s rules"),
        line("pfctl -a director -s nat"),
        line(
            "pfctl -a director -t web_4_443 -T show",
            code=1,
            stderr="pfctl: /dev/pf: Permission denied",
        ),
    )
    with pytest.raises(DriverError, match="Permission denied"):
        pf.observe(wanted("b1"))


def test_applying_passes_the_rules_on_standard_input() -> None:
    pf, host = driver(Pool.HASH, line("pfctl -a director -o none -f -"))
    what = wanted("b1")
    pf.apply(pf.plan(PfObserved(present=False), what))

    assert ("pfctl -a director -o none -f -", pf.rules(what).text()) == host.asked[-1]


def test_a_refused_load_is_said_with_pfctl_s_own_words() -> None:
    pf, _ = driver(
        Pool.HASH,
        line("pfctl -a director -o none -f -", code=1, stderr="stdin:3: syntax error"),
    )
    with pytest.raises(DriverError, match=r"stdin:3: syntax error"):
        pf.apply(pf.plan(PfObserved(present=False), wanted("b1")))


def _capture(stem: str) -> str:
    path = ROOT / "tests" / "captures" / f"{stem}.json"
    return str(json.loads(path.read_text())["stdout"])


def test_connections_count_a_flow_once() -> None:
    """A redirected flow has two states; closing ones are no connections."""
    pf, _ = driver(
        Pool.HASH, line("pfctl -s states", _capture("freebsd-14-pfctl-ss-vv"))
    )
    assert 2 == pf.connections(Backend("b1", Address("10.2.1.251", 443)), wanted())
    assert 0 == pf.connections(Backend("b2", Address("10.2.1.250", 443)), wanted())


def test_a_flow_is_told_with_its_age() -> None:
    """From `backend (virtual) <- client`; the state behind it does not name it."""
    pf, _ = driver(Pool.HASH, line("pfctl -ss -v", _capture("freebsd-14-pfctl-ss-vv")))
    (flow,) = pf.flows(wanted())
    assert ("198.51.100.7:51812", "10.2.1.251:443") == (
        str(flow.client),
        str(flow.backend),
    )
    assert (34 * 60 + 23, 23 * 3600 + 52 * 60 + 1) == (flow.age, flow.seconds)
    assert [] == pf_output.through(
        pf_output.states(_capture("opnsense-pfctl-ss-v")), Address("203.0.113.10", 443)
    )


def test_connections_that_cannot_be_listed_are_unknown() -> None:
    pf, _ = driver(Pool.HASH, line("pfctl -s states", code=1))
    assert pf.connections(BACKENDS["b1"], wanted()) is None


def test_a_kill_names_each_state_and_then_the_source_nodes() -> None:
    """By id: the address alone matches only the half towards the backend."""
    ids = ["0100000065f1a2b3", "0100000065f1a2b4", "0200000065f1a2b6"]
    kills = [f"pfctl -k id -k {i}/ef725303" for i in ids]
    nodes = "pfctl -K 0.0.0.0/0 -K 10.2.1.251"
    pf, host = driver(
        Pool.STICKY,
        line("pfctl -ss -vv", _capture("freebsd-14-pfctl-ss-vv")),
        *[line(kill, stderr="killed 1 states") for kill in kills],
        line(nodes),
    )

    assert 2 == pf.kill(Backend("b1", Address("10.2.1.251", 443)), wanted())
    assert ["pfctl -ss -vv", *kills, nodes] == [asked for asked, _ in host.asked]


def test_removing_stays_inside_the_anchor() -> None:
    """`-F all` and anything without `-a` would take other people's rules."""
    pf, host = driver(
        Pool.HASH, line("pfctl -a director -f -"), line("pfctl -a director -F Tables")
    )
    pf.remove()

    assert [
        ("pfctl -a director -f -", ""),
        ("pfctl -a director -F Tables", ""),
    ] == host.asked


def detection(nat: str, rules: str, info: str = "Status: Enabled for 0 days") -> Any:
    pf, _ = driver(
        Pool.STICKY,
        line("uname -r", "14.3-RELEASE-p2\n"),
        line("pfctl -s info", info + "\n"),
        line("pfctl -s nat", nat),
        line("pfctl -s rules", rules),
    )
    return pf.detect()


def test_detection_says_which_lines_pf_conf_needs() -> None:
    """`director/*` calls only what lies below our anchor, so it does not count."""
    found = detection('nat-anchor "director" all\nrdr-anchor "director/*" all\n', "")

    assert (
        'pf.conf does not call our anchor: add the line `rdr-anchor "director"`',
        'pf.conf does not call our anchor: add the line `anchor "director"`',
    ) == found.missing
    assert ("pf", "14.3-RELEASE-p2", ("nat",)) == (
        found.driver,
        found.version,
        found.modes,
    )


def test_detection_is_content_with_a_ready_host() -> None:
    found = detection(
        'nat-anchor "director" all\nrdr-anchor "director" all\n',
        'pass all flags S/SA keep state\nanchor "director" all\n',
    )
    assert () == found.missing
    assert any("hashes no tables" in note for note in found.notes)


def test_detection_says_when_pf_is_off() -> None:
    found = detection(
        'nat-anchor "director" all\nrdr-anchor "director" all\n',
        'anchor "director" all\n',
        "Status: Disabled for 0 days 00:00:03",
    )
    assert ("pf is not enabled: `service pf start`",) == found.missing


def test_detection_without_pfctl_is_a_sentence() -> None:
    class Bare(ScriptedHost):
        def run(self, argv: Sequence[str], **_: Any) -> Result:
            raise CommandNotFoundError(f"cannot run {argv[0]}: no such file")

    found = PfDriver(Bare([])).detect()
    assert ("cannot run uname: no such file",) == found.missing
