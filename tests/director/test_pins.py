"""Flows that the hash would misplace, and the wire that tells a peer of them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
from typing import TYPE_CHECKING, Any, Self

import pytest
from conftest import ROOT, free_port
from hypothesis import given
from hypothesis import strategies as st

from standfast.clock import SystemClock
from standfast.director import peer_wire
from standfast.director.conntrack import entries, flows
from standfast.director.maglev import slot_of, table_for
from standfast.director.model import Address, Backend, Flow, Pin, Service, Wanted
from standfast.director.peer_channel import (
    PeerChannel,
    PeerStatus,
    read_key,
    read_status,
    status_body,
)
from standfast.director.peer_wire import (
    KEY_BYTES,
    Kind,
    Message,
    Refusal,
    Session,
    answer,
    seal,
    unseal,
)
from standfast.director.pins import (
    PART_MAX_BYTES,
    PIN_MAX_S,
    Gathering,
    PartError,
    gather,
    misplaced,
    parts,
    read_part,
)
from standfast.errors import UsageError

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from standfast.director.plan import Told

CAPTURES = sorted((ROOT / "tests" / "captures").glob("*-conntrack-*.json"))


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.stem)
def test_conntrack_is_read_whoever_spoke_first(path: Path) -> None:
    capture = json.loads(path.read_text())
    found = list(entries(capture["stdout"]))
    virtuals = {
        Address("10.50.0.100", 80),
        Address("10.50.0.100", 53, "udp"),
        Address("2001:db8:50::100", 80),
    }
    seen = [
        [
            flow.virtual.proto,
            flow.state,
            str(flow.client),
            str(flow.virtual),
            str(flow.backend),
            flow.seconds,
        ]
        for flow in flows(found, virtuals)
    ]

    assert capture["expect"] == seen
    assert [] == list(flows(found, {Address("10.50.0.100", 81)}))


@given(st.text(max_size=200))
def test_no_listing_breaks_the_reader(text: str) -> None:
    assert [] == list(entries(text))


# --- which flows

NAMES = ("b1", "b2", "b3", "b4")
BACKENDS = {n: Backend(n, Address(f"10.60.0.2{i}")) for i, n in enumerate(NAMES)}
VIRTUAL = Address("203.0.113.10", 443)
WEB = Service("web", (VIRTUAL,), NAMES, seed=0x5EED, slots=127)


def wanted(*present: str) -> Wanted:
    weights = tuple((name, 1) for name in NAMES)
    slots = table_for(weights, frozenset(present), WEB.slots, WEB.seed)
    return Wanted((WEB,), BACKENDS, {"web": slots}, guard=False)


clients = st.builds(
    Address,
    st.ip_addresses(v=4).map(str),
    st.integers(min_value=1, max_value=65535),
)
states = st.sampled_from(["ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "TIME_WAIT"])


def flow(client: Address, name: str, state: str = "ESTABLISHED") -> Flow:
    return Flow(client, VIRTUAL, Address(BACKENDS[name].address.ip, 443), state, 300)


@given(
    st.dictionaries(clients, st.tuples(st.sampled_from(NAMES), states), max_size=40),
    st.sets(st.sampled_from(NAMES), min_size=1),
)
def test_hash_and_pins_together_place_every_flow(
    under_way: dict[Address, tuple[str, str]], present: set[str]
) -> None:
    """A peer with the table and the pins misplaces nothing; and no pin is spare."""
    what = wanted(*present)
    found = [flow(client, *held) for client, held in under_way.items()]
    pins = misplaced(found, what, now=1000.0)
    pinned = {pin.client: pin.backend for pin in pins}
    slots = what.table["web"]

    for client, (name, state) in under_way.items():
        by_hash = slots[slot_of(client, len(slots), WEB.seed)]
        if state == "TIME_WAIT":
            assert client not in pinned
        else:
            assert name == pinned.get(client, by_hash)
        assert pinned.get(client) != by_hash
    assert {1300.0} >= {pin.expires for pin in pins}


def test_flows_of_strangers_are_not_pinned() -> None:
    """Another service's address, or a backend that nobody configured."""
    elsewhere = dataclasses.replace(
        flow(Address("192.0.2.1", 5), "b1"), virtual=Address("203.0.113.11", 443)
    )
    unknown = dataclasses.replace(
        flow(Address("192.0.2.1", 5), "b1"), backend=Address("10.9.9.9", 443)
    )

    assert [] == misplaced([elsewhere, unknown], wanted("b2"), 0.0)


pin_sets = st.lists(
    st.builds(
        Pin,
        clients,
        st.sampled_from(
            [VIRTUAL, Address("2001:db8::10", 80), Address("10.0.0.1", 53)]
        ),
        st.sampled_from(NAMES),
        st.integers(min_value=1000, max_value=1000 + PIN_MAX_S).map(float),
    ),
    max_size=60,
)


@given(pin_sets, st.randoms(use_true_random=False))
def test_a_set_of_pins_arrives_whole_in_any_order(
    pins: list[Pin], order: random.Random
) -> None:
    """Shuffled and repeated parts give the same set, once; each fits a datagram."""
    bodies = parts(pins, 7, now=1000.0)
    assert all(len(body) <= PART_MAX_BYTES + 100 for body in bodies)
    arriving = bodies * 2
    order.shuffle(arriving)
    state, whole = Gathering(), []
    for body in arriving:
        state, done = gather(state, read_part(body, now=1000.0))
        if done is not None:
            whole.append(done)

    assert [tuple(pins)] == whole


@given(pin_sets, pin_sets, st.randoms(use_true_random=False))
def test_sets_are_never_mixed(
    older: list[Pin], newer: list[Pin], order: random.Random
) -> None:
    """Whatever is lost or late, what comes out is one of the two sets."""
    bodies = parts(older, 1, 1000.0) + parts(newer, 2, 1000.0)
    order.shuffle(bodies)
    state = Gathering()
    for body in bodies[: order.randint(0, len(bodies))]:
        state, done = gather(state, read_part(body, 1000.0))
        assert done in (None, tuple(older), tuple(newer))


def test_late_parts_of_an_older_set_change_nothing() -> None:
    """Two sets with as many parts each: the gaps of one are not filled by the other."""
    older, newer = many(40), many(41)[1:]
    now = SystemClock().now()
    old, new = parts(older, 1, now), parts(newer, 2, now)
    assert len(old) == len(new) >= 3
    state, whole = Gathering(), []
    for body in [new[0], *old, *new[1:]]:
        state, done = gather(state, read_part(body, now))
        if done is not None:
            whole.append([pin.client for pin in done])

    assert [[pin.client for pin in newer]] == whole


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@given(st.binary(max_size=80) | json_values.map(lambda v: json.dumps(v).encode()))
def test_no_body_breaks_a_reader(body: bytes) -> None:
    """A peer of another version is refused with a sentence, not a traceback."""
    with contextlib.suppress(PartError):
        read_part(body, 0.0)
    with contextlib.suppress(PartError):
        read_status(Message(Kind.STATUS, 1, body))


# --- the seal

KEY = bytes(range(KEY_BYTES))
HELLO = Message(Kind.STATUS, 200, b"hello")


def session(number: int, key: bytes = KEY) -> Session:
    return Session(key, number.to_bytes(16, "big"))


def meet(one: Session, other: Session) -> tuple[Session, Session]:
    """Exchange datagrams until both believe each other."""
    for _ in range(2):
        one, datagram = seal(one, HELLO)
        other, message = unseal(other, datagram)
        if message is None:
            other, datagram = answer(other, HELLO)
            one, _ = unseal(one, datagram)
        other, datagram = seal(other, HELLO)
        one, _ = unseal(one, datagram)
    return one, other


def test_two_strangers_believe_each_other_after_one_round() -> None:
    one, other = meet(session(1), session(2))

    assert (other.own, one.own) == (one.peer, other.peer)
    one, datagram = seal(one, Message(Kind.PINS, 3, b"x"))
    assert Message(Kind.PINS, 3, b"x") == unseal(other, datagram)[1]


@given(st.data())
def test_any_altered_byte_breaks_the_seal(data: st.DataObject) -> None:
    """The rank as well, which CARP and VRRP leave open."""
    one, other = meet(session(1), session(2))
    _, datagram = seal(one, HELLO)
    at = data.draw(st.integers(0, len(datagram) - 1))
    bit = data.draw(st.integers(0, 7))
    altered = bytearray(datagram)
    altered[at] ^= 1 << bit

    with pytest.raises(Refusal) as caught:
        unseal(other, bytes(altered))
    assert caught.value.reason in ("seal", "form")


@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(Refusal):
        unseal(session(1), noise)


def test_another_key_is_refused() -> None:
    _, datagram = seal(session(1, bytes(KEY_BYTES)), HELLO)
    with pytest.raises(Refusal) as caught:
        unseal(session(2), datagram)
    assert "seal" == caught.value.reason


def test_our_own_words_sent_back_are_refused() -> None:
    one, datagram = seal(session(1), HELLO)
    with pytest.raises(Refusal) as caught:
        unseal(one, datagram)
    assert "own" == caught.value.reason


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["send", "restart"]), st.integers(0, 1)),
            st.tuples(st.just("replay"), st.integers(0, 1000)),
        ),
        max_size=40,
    )
)
def test_no_schedule_of_replays_is_believed(  # noqa: C901 - one world, told whole
    steps: list[tuple[str, int]],
) -> None:
    """Somebody who records everything and sends it again at any time gains nothing.

    No datagram is believed twice, and none of a life whose successor is believed.
    """
    ends = [session(1), session(2)]
    lives = [1, 2]
    tape: list[tuple[int, bytes]] = []
    believed: set[tuple[int, bytes]] = set()
    latest: list[int] = [0, 0]  # the life of the peer that each believes

    def deliver(to: int, datagram: bytes, life: int, depth: int = 0) -> None:
        try:
            ends[to], message = unseal(ends[to], datagram)
        except Refusal:
            return
        if message is not None:
            assert (lives[to], datagram) not in believed
            believed.add((lives[to], datagram))
            assert life >= latest[to]
            latest[to] = life
        elif depth < 2:
            ends[to], reply = answer(ends[to], HELLO)
            tape.append((lives[to], reply))
            deliver(1 - to, reply, lives[to], depth + 1)

    number = 2
    for verb, argument in steps:
        if verb == "restart":
            number += 1
            lives[argument] = number
            ends[argument] = session(number)
            latest[argument] = 0
        elif verb == "send":
            ends[argument], datagram = seal(ends[argument], HELLO)
            tape.append((lives[argument], datagram))
            deliver(1 - argument, datagram, lives[argument])
        elif tape:
            life, datagram = tape[argument % len(tape)]
            for to in (0, 1):
                if life != lives[to]:
                    deliver(to, datagram, life)


def test_a_session_does_not_print_its_key() -> None:
    assert KEY.hex() not in repr(session(1))
    assert "key" not in repr(session(1))


# --- the key file


def test_a_key_is_read_in_both_forms(tmp_path: Path) -> None:
    for data in (KEY, KEY.hex().encode() + b"\n"):
        path = tmp_path / "key"
        path.write_bytes(data)
        path.chmod(0o600)
        assert KEY == read_key(path)


@pytest.mark.parametrize(
    ("data", "mode", "words"),
    [
        (KEY, 0o640, "others may read"),
        (KEY, 0o604, "others may read"),
        (KEY[:31], 0o600, "not a key of 32 bytes"),
        (b"zz" * 32, 0o600, "not a key of 32 bytes"),
        (b"", 0o600, "not a key of 32 bytes"),
    ],
)
def test_a_bad_key_is_refused(
    tmp_path: Path, data: bytes, mode: int, words: str
) -> None:
    path = tmp_path / "key"
    path.write_bytes(data)
    path.chmod(mode)
    with pytest.raises(UsageError, match=words):
        read_key(path)


def test_a_missing_key_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_key(tmp_path / "none")


# --- the wire


class Ear:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.statuses: list[PeerStatus] = []
        self.pins: list[tuple[Pin, ...]] = []
        self.orders: tuple[Told, ...] = ()
        self.away = 0
        self.sentences: list[str] = []

    def peer_status(self, status: PeerStatus) -> None:
        self.statuses.append(status)

    def peer_pins(self, pins: tuple[Pin, ...]) -> None:
        self.pins.append(pins)

    def peer_orders(self, orders: tuple[Told, ...]) -> None:
        self.orders += orders

    def peer_away(self) -> None:
        self.away += 1

    def peer_refused(self, sentence: str) -> None:
        self.sentences.append(sentence)


class Wire:
    """Two channels on loopback."""

    def __init__(self, keys: tuple[bytes, bytes] = (KEY, KEY)) -> None:
        ports = [free_port(), free_port()]
        self.ears = [Ear(), Ear()]
        self.ports = ports
        self.ends = [
            PeerChannel(
                self.ears[me],
                SystemClock(),
                key=keys[me],
                listen=Address("127.0.0.1", ports[me]),
                peer=Address("127.0.0.1", ports[1 - me]),
                interval=0.05,
            )
            for me in (0, 1)
        ]

    async def __aenter__(self) -> Self:
        for one in self.ends:
            await one.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in self.ends:
            await one.stop()


async def until(ready: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not ready():  # noqa: ASYNC110 - what a caller sees
            await asyncio.sleep(0.005)


def many(count: int) -> list[Pin]:
    now = SystemClock().now()
    return [
        Pin(Address("198.51.100.7", 1024 + n), VIRTUAL, NAMES[n % 4], now + 300)
        for n in range(count)
    ]


def test_status_and_200_pins_cross_loopback() -> None:
    """Rank, digest and every pin arrive, in a few milliseconds."""

    async def scenario() -> float:
        async with Wire() as wire:
            await until(lambda: wire.ends[0].present and wire.ends[1].present)
            status = PeerStatus(180, "master", "ab" * 8, "all is well")
            wire.ends[0].say(status)
            began = asyncio.get_running_loop().time()
            wire.ends[0].push(many(200))
            await until(lambda: wire.ears[1].pins and len(wire.ears[1].pins[-1]) == 200)
            took = asyncio.get_running_loop().time() - began
            await until(lambda: status in wire.ears[1].statuses)
            wanted_pins = {(pin.client, pin.backend) for pin in many(200)}
            got = {(pin.client, pin.backend) for pin in wire.ears[1].pins[-1]}
            assert wanted_pins == got
            assert {} == dict(wire.ends[1].refused)
            return took

    took = asyncio.run(scenario())
    print(f"200 pins crossed in {took * 1000:.1f} ms")
    assert took < 0.5


def test_a_large_set_arrives_in_bursts() -> None:
    """10,000 pins, some 700 datagrams: more than a receive buffer holds."""

    async def scenario() -> float:
        async with Wire() as wire:
            await until(lambda: wire.ends[0].present and wire.ends[1].present)
            began = asyncio.get_running_loop().time()
            wire.ends[0].push(many(10_000))
            await until(
                lambda: wire.ears[1].pins and len(wire.ears[1].pins[-1]) == 10_000, 20
            )
            return asyncio.get_running_loop().time() - began

    print(f"10,000 pins crossed in {asyncio.run(scenario()):.2f} s")


def test_an_unchanged_set_is_told_once() -> None:
    """Pushed each second by its owner, it reaches the listener when it changes."""

    async def scenario() -> list[int]:
        async with Wire() as wire:
            await until(lambda: wire.ends[0].present and wire.ends[1].present)
            for count in (5, 5, 5, 6, 0):
                wire.ends[0].push(many(count))
                await asyncio.sleep(0.2)
            return [len(pins) for pins in wire.ears[1].pins]

    assert [5, 6, 0] == asyncio.run(scenario())


def test_pins_set_before_the_peer_came_reach_it() -> None:
    """A set is repeated: it need not be said again for a peer that comes late."""

    async def scenario() -> None:
        wire = Wire()
        await wire.ends[0].start()
        wire.ends[0].push(many(4))
        await asyncio.sleep(0.3)
        await wire.ends[1].start()
        await until(lambda: wire.ears[1].pins and len(wire.ears[1].pins[-1]) == 4)
        for one in wire.ends:
            await one.stop()

    asyncio.run(scenario())


def test_a_restarted_peer_is_believed_again() -> None:
    async def scenario() -> None:
        async with Wire() as wire:
            await until(lambda: wire.ends[1].present)
            wire.ends[0].push(many(9))
            await until(lambda: wire.ears[1].pins and len(wire.ears[1].pins[-1]) == 9)
            await wire.ends[0].stop()
            await until(lambda: not wire.ends[1].present)
            assert 1 == wire.ears[1].away
            again = PeerChannel(
                Ear(),
                SystemClock(),
                key=KEY,
                listen=Address("127.0.0.1", wire.ports[0]),
                peer=Address("127.0.0.1", wire.ports[1]),
                interval=0.05,
            )
            await again.start()
            again.say(PeerStatus(7, "backup", "", "new"))
            await until(lambda: any(s.rank == 7 for s in wire.ears[1].statuses))
            await until(lambda: again.present)
            again.push(many(3))
            await until(lambda: len(wire.ears[1].pins[-1]) == 3)
            await again.stop()

    asyncio.run(scenario())


def test_forged_and_repeated_datagrams_are_ignored_counted_and_told() -> None:
    """What an attacker on the segment can send moves nothing."""

    async def scenario() -> None:
        async with Wire() as wire:
            await until(lambda: wire.ends[1].present)
            forged, _ = Session(bytes(KEY_BYTES), b"e" * 16), None
            _, datagram = seal(forged, Message(Kind.STATUS, 254, b'["m","",""]'))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as enemy:
                target = ("127.0.0.1", wire.ports[1])
                for data in (datagram, b"", b"SFD1", b"x" * 1400):
                    enemy.sendto(data, target)
                recorded = _record(wire)
                enemy.sendto(recorded, target)
                enemy.sendto(recorded, target)
            await until(lambda: wire.ends[1].refused["repeat"] >= 1)
            await until(lambda: wire.ends[1].refused["seal"] >= 1)
            await until(lambda: wire.ends[1].refused["form"] >= 3)
            assert all(status.rank != 254 for status in wire.ears[1].statuses)
            assert 1 <= len(wire.ears[1].sentences) <= 2

    asyncio.run(scenario())


def _record(wire: Wire) -> bytes:
    """Return a genuine datagram of the first end, as a tap would see it."""
    first = wire.ends[0]
    first._session, datagram = seal(
        first._session, Message(Kind.STATUS, 1, status_body(PeerStatus(1, "b", "", "")))
    )
    return datagram


def test_two_keys_never_meet() -> None:
    async def scenario() -> None:
        async with Wire((KEY, bytes(KEY_BYTES))) as wire:
            await until(lambda: wire.ends[0].refused["seal"] > 3)
            assert not wire.ends[0].present
            assert [] == wire.ears[0].statuses
            assert [] == wire.ears[0].pins

    asyncio.run(scenario())


def test_the_wire_form_is_as_documented() -> None:
    """Magic, kind, rank, nonce, echo, sequence, body, seal; big-endian."""
    _, datagram = seal(session(1), Message(Kind.PINS, 200, b"body"))

    assert b"SFD1\x02\xc8" == datagram[:6]
    assert (1).to_bytes(16, "big") + bytes(16) + (1).to_bytes(8, "big") == datagram[
        6:46
    ]
    assert b"body" == datagram[46:-32]
    assert peer_wire._tag(KEY, datagram[:-32]) == datagram[-32:]
