"""Planning increments and finding the way back, for histories of every shape."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.backup.chain import (
    NOTHING,
    SEND,
    Mark,
    Request,
    plan_chain,
    whole_chains,
)
from standfast.backup.marks import LONGEST_VALUE, Memory, parse_memory
from standfast.backup.minisign import SecretKey
from standfast.backup.model import Fingerprints, Manifest, Stream, Substream
from standfast.backup.proof import COMMITTED, REFUSED, Archive
from standfast.backup.sums import NONE, Statement
from standfast.backup.wayback import Link, choose, way_back
from standfast.errors import DamagedError, UsageError
from standfast.zfs.listing import Dataset, Listing, Point

VAULT = "ab" * 16


def archive_id(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()[:32]


def sums(archive: str) -> str:
    return hashlib.sha256(archive.encode()).hexdigest()


def judged(archive: str, base: str, number: int, standing: str = COMMITTED) -> Archive:
    statement = Statement(
        "archive", VAULT, archive, 2, 30, number, NONE, number, base, NONE
    )
    return Archive(archive, standing, statement, "key", {}, sums(archive), {})


def manifest(archive: str, name: str, parts: list[Substream]) -> Manifest:
    tops = [p for p in parts if p.name == name]
    dataset = name.partition("@")[0]
    first = next(p for p in parts if p.name.partition("@")[0] == dataset)
    stream = Stream(
        name=name, guid=tops[-1].guid, from_guid=first.from_guid,
        compound=len(parts) > 1, big_endian=False, features=[], substreams=parts,
    )  # fmt: skip
    prints = Fingerprints(algorithm="aes-256-gmac", key="0" * 64)
    return Manifest(
        format=1, vault=VAULT, archive=archive, name=name, created="", host="",
        command=[], versions={}, size=1, segment_size=65536, level=3, stream=stream,
        fingerprints=prints, segments=[],
    )  # fmt: skip


def part(name: str, guid: int, origin: int = 0) -> Substream:
    return Substream(
        name=name, guid=str(guid), from_guid=str(origin), kind="filesystem"
    )


@dataclasses.dataclass
class World:
    """A dataset's life: snapshots come and go, are sent, and archives are lost."""

    points: list[Point] = dataclasses.field(default_factory=list)
    marks: list[Mark] = dataclasses.field(default_factory=list)
    archives: dict[str, Archive] = dataclasses.field(default_factory=dict)
    manifests: dict[str, Manifest] = dataclasses.field(default_factory=dict)
    clock: int = 0

    def listing(self) -> Listing:
        dataset = Dataset("p/d", 1, "filesystem", points=tuple(self.points))
        return Listing({"p/d": dataset}, bookmarks=True)

    def held(self) -> dict[str, str]:
        return whole_chains(self.archives.values())

    def snapshot(self) -> None:
        self.clock += 1
        # Names come again; GUIDs do not.
        name = f"p/d@s{self.clock % 3}"
        self.points = [p for p in self.points if p.name != name]
        self.points.append(Point(name, 1000 + self.clock, self.clock))

    def bookmark(self) -> None:
        if self.points:
            last = self.points[-1]
            name = f"p/d#b{last.guid}"
            if all(p.name != name for p in self.points):
                self.points.append(Point(name, last.guid, last.createtxg))

    def forget(self, which: int) -> None:
        if self.points:
            self.points.pop(which % len(self.points))

    def lose(self, which: int, *, damaged: bool) -> None:
        if self.archives:
            name = sorted(self.archives)[which % len(self.archives)]
            if damaged:
                found = self.archives[name]
                self.archives[name] = dataclasses.replace(found, standing=REFUSED)
            else:
                del self.archives[name]

    def send(self, request: Request) -> None:
        try:
            plan = plan_chain(self.listing(), self.marks, self.held(), request)
        except UsageError:
            return
        if plan.action == NOTHING:
            assert plan.mark is not None
            assert plan.mark.guid == plan.target.guid
            assert self.held()[plan.mark.archive] == plan.mark.sums
            return
        base = NONE
        if plan.base is not None:
            assert plan.mark is not None
            assert plan.base in self.points
            assert plan.mark.guid == plan.base.guid
            assert plan.base.createtxg < plan.target.createtxg
            assert self.held()[plan.mark.archive] == plan.mark.sums
            base = plan.mark.archive
        self.clock += 1
        archive = archive_id(self.clock)
        self.archives[archive] = judged(archive, base, self.clock)
        origin = plan.base.guid if plan.base else 0
        parts = [part(plan.target.name, plan.target.guid, origin)]
        self.manifests[archive] = manifest(archive, plan.target.name, parts)
        self.marks.insert(0, Mark(plan.target.guid, archive, sums(archive)))
        self.received(archive, plan.target.guid)

    def received(self, archive: str, guid: int) -> None:
        """Receive the chain in order, as ZFS would, and look what is there."""
        whole = [a for a in self.archives.values() if a.standing == COMMITTED]
        last = Link(self.archives[archive], self.manifests[archive])
        there: set[str] = {"0"}
        newest = "0"
        for link in way_back(last, whole, self.manifests):
            assert link.archive.standing == COMMITTED
            for each in link.taken:
                assert each.from_guid == newest
                there.add(each.guid)
                newest = each.guid
        assert str(guid) == newest


STEPS = st.lists(
    st.one_of(
        st.just(("snapshot", 0)),
        st.just(("snapshot", 0)),
        st.just(("send", 0)),
        st.just(("send", 0)),
        st.just(("full", 0)),
        st.just(("bookmark", 0)),
        st.tuples(st.sampled_from(["named", "forget", "lose", "spoil"]),
                  st.integers(0, 20)),
    ),
    max_size=40,
)  # fmt: skip


@given(steps=STEPS)
def test_no_base_that_the_vault_lacks(steps: list[tuple[str, int]]) -> None:
    """Whatever is lost and made anew, each archive sent can be received."""
    world = World()
    for step, which in steps:
        match step:
            case "snapshot":
                world.snapshot()
            case "bookmark":
                world.bookmark()
            case "forget":
                world.forget(which)
            case "lose" | "spoil":
                world.lose(which, damaged=step == "spoil")
            case "full":
                world.send(Request("p/d", full=True))
            case "named":
                world.send(Request("p/d", snapshot=f"s{which % 3}"))
            case _:
                world.send(Request("p/d"))


@given(steps=STEPS)
def test_nothing_is_sent_twice(steps: list[tuple[str, int]]) -> None:
    """Asking again at once gives nothing to send."""
    world = World()
    world.snapshot()
    for step, _which in steps:
        if step == "snapshot":
            world.snapshot()
        world.send(Request("p/d"))
        plan = plan_chain(world.listing(), world.marks, world.held(), Request("p/d"))
        assert NOTHING == plan.action


@pytest.mark.parametrize("raw", [False, True])
def test_raw_and_other_chains_are_not_mixed(raw: bool) -> None:  # noqa: FBT001
    """openzfs/zfs#8758, #18784: one step of the other kind spoils the chain."""
    points = (Point("p/d@a", 1, 1), Point("p/d@b", 2, 2))
    dataset = Dataset("p/d", 9, "filesystem", encrypted=True, points=points)
    listing = Listing({"p/d": dataset}, bookmarks=True)
    mark = Mark(1, archive_id(1), sums(archive_id(1)), raw=raw)
    held = {mark.archive: mark.sums}
    flags = {True: ("-w",), False: ()}
    good = plan_chain(listing, [mark], held, Request("p/d", flags=flags[raw]))
    assert (SEND, points[0]) == (good.action, good.base)
    with pytest.raises(UsageError, match="cannot follow each other") as caught:
        plan_chain(listing, [mark], held, Request("p/d", flags=flags[not raw]))
    assert "--full" in caught.value.hint
    full = Request("p/d", flags=flags[not raw], full=True)
    assert plan_chain(listing, [mark], held, full).base is None


def test_large_blocks_stay() -> None:
    """A stream without -L does not follow one with large blocks."""
    points = (Point("p/d@a", 1, 1), Point("p/d@b", 2, 2))
    dataset = Dataset("p/d", 9, "filesystem", points=points)
    listing = Listing({"p/d": dataset}, bookmarks=True)
    mark = Mark(1, archive_id(1), sums(archive_id(1)), large=True)
    held = {mark.archive: mark.sums}
    with pytest.raises(UsageError, match="large blocks"):
        plan_chain(listing, [mark], held, Request("p/d"))
    for flags in (("-L",), ("-Lce",), ("--large-block",)):
        plan = plan_chain(listing, [mark], held, Request("p/d", flags=flags))
        assert points[0] == plan.base


def test_between_from_a_bookmark() -> None:
    """zfs send -I takes no bookmark: -i to the next snapshot, and -I from there."""
    points = (
        Point("p/d#a", 1, 1),
        Point("p/d@b", 2, 2),
        Point("p/d@c", 3, 3),
    )
    dataset = Dataset("p/d", 9, "filesystem", points=points)
    listing = Listing({"p/d": dataset}, bookmarks=True)
    mark = Mark(1, archive_id(1), sums(archive_id(1)))
    held = {mark.archive: mark.sums}
    plan = plan_chain(listing, [mark], held, Request("p/d", between=True))
    assert (points[0], points[1], True) == (plan.base, plan.target, plan.more)


def test_an_interrupted_send_comes_first() -> None:
    """What was begun is finished, then the newest follows; not if a later was sent."""
    points = tuple(Point(f"p/d@{n}", n, n) for n in (1, 2, 3))
    dataset = Dataset("p/d", 9, "filesystem", points=points)
    listing = Listing({"p/d": dataset}, bookmarks=True)
    request = Request("p/d", finish=frozenset([2]))
    plan = plan_chain(listing, [], {}, request)
    assert (points[1], True) == (plan.target, plan.more)
    mark = Mark(3, archive_id(1), sums(archive_id(1)))
    plan = plan_chain(listing, [mark], {mark.archive: mark.sums}, request)
    assert (NOTHING, points[2]) == (plan.action, plan.target)


def test_a_tree_whose_snapshot_was_replaced() -> None:
    """One snapshot of the tree is another than the one sent: no base."""
    top = Dataset("p/d", 9, "filesystem", points=(Point("p/d@a", 1, 1, holds=1),
                  Point("p/d@b", 3, 3)))  # fmt: skip
    child = Dataset("p/d/c", 10, "filesystem", points=(Point("p/d/c@a", 7, 2),
                    Point("p/d/c@b", 4, 3)))  # fmt: skip
    listing = Listing({"p/d": top, "p/d/c": child}, bookmarks=True)
    mark = Mark(1, archive_id(1), sums(archive_id(1)))
    held = {mark.archive: mark.sums}
    request = Request("p/d", tree=True)
    plan = plan_chain(listing, [mark], held, request, frozenset([1, 7]))
    assert frozenset([1, 7]) == plan.bases
    with pytest.raises(UsageError, match="was replaced since it was sent"):
        plan_chain(listing, [mark], held, request, frozenset([1]))


def test_chains_with_a_hole() -> None:
    """Only what goes down to a full archive counts, however the bases run."""
    one, two, three, four = (archive_id(n) for n in range(4))
    archives = [
        judged(one, NONE, 1),
        judged(two, one, 2),
        judged(three, four, 3),
        judged(four, three, 4),
    ]
    assert {one, two} == set(whole_chains(archives))
    assert {two} == set(whole_chains([judged(two, "", 2)]))
    assert set() == set(whole_chains(archives[1:2]))


def test_a_way_of_thousands() -> None:
    """A chain of years is found without recursion."""
    archives, manifests = [], {}
    for n in range(3000):
        name = archive_id(n)
        archives.append(judged(name, archive_id(n - 1) if n else NONE, n))
        parts = [part(f"p/d@{n}", n + 1, n)]
        manifests[name] = manifest(name, f"p/d@{n}", parts)
    way = way_back(choose("p/d@2999", archives, manifests), archives, manifests)
    assert [str(n + 1) for n in range(3000)] == [link.guid for link in way]


def test_another_way_round_a_hole() -> None:
    """Where the signed base is gone, another archive of that snapshot will do."""
    one, two, three, four = (archive_id(n) for n in range(4))
    archives = [judged(two, one, 2), judged(three, two, 3), judged(four, NONE, 4)]
    manifests = {
        two: manifest(two, "p/d@b", [part("p/d@b", 2, 1)]),
        three: manifest(three, "p/d@c", [part("p/d@c", 3, 2)]),
        four: manifest(four, "p/d@b", [part("p/d@b", 2, 0)]),
    }
    way = way_back(choose("p/d@c", archives, manifests), archives, manifests)
    assert [four, three] == [link.archive.id for link in way]
    with pytest.raises(DamagedError):
        way_back(choose("p/d@c", archives[:2], manifests), archives[:2], manifests)


def test_one_dataset_of_a_tree() -> None:
    """A child's snapshots are cut out of every archive of the tree."""
    one, two = archive_id(1), archive_id(2)
    first = [part("p@a", 1), part("p/c@a", 11), part("p/d@a", 21)]
    second = [part("p@b", 2, 1), part("p/c@b", 12, 11), part("p/d@b", 22, 21)]
    archives = [judged(one, NONE, 1), judged(two, one, 2)]
    manifests = {
        one: manifest(one, "p@a", first),
        two: manifest(two, "p@b", second),
    }
    way = way_back(choose("p/c@b", archives, manifests), archives, manifests)
    assert [(one, (1,)), (two, (1,))] == [(w.archive.id, w.parts) for w in way]
    way = way_back(choose("p@b", archives, manifests), archives, manifests)
    assert [(one, ()), (two, ())] == [(w.archive.id, w.parts) for w in way]


GUIDS = st.integers(1, (1 << 64) - 1)
HEX = st.binary(min_size=16, max_size=16).map(bytes.hex)
MARKS = st.builds(
    Mark,
    guid=GUIDS,
    archive=HEX,
    sums=st.binary(min_size=32, max_size=32).map(bytes.hex),
    raw=st.booleans(),
    large=st.booleans(),
)
SIGNERS = [SecretKey(bytes(8), bytes([n]) * 32).public.text for n in range(3)]


@given(marks=st.lists(MARKS, max_size=8), signers=st.sampled_from([[], SIGNERS[:2]]))
def test_the_property_reads_back(marks: list[Mark], signers: list[str]) -> None:
    """The newest marks fit into what the oldest ZFS takes, and read back."""
    memory = Memory(tuple(marks), tuple(signers))
    text = memory.text()
    assert len(text) <= LONGEST_VALUE
    found = parse_memory(text)
    assert tuple(signers) == found.signers
    assert found.marks == memory.marks[: len(found.marks)]
    assert len(found.marks) >= min(len(marks), 5)


@given(text=st.text())
def test_a_property_of_somebody_else(text: str) -> None:
    """Whatever stands there, it is read without an error."""
    parse_memory(text)
    parse_memory(f"1 a={text} s={text} a=1:{'0' * 32}:{'0' * 64}:-")


@given(marks=st.lists(MARKS, min_size=1, max_size=8), mark=MARKS)
def test_one_archive_more(marks: list[Mark], mark: Mark) -> None:
    """The newest mark comes first, its signer too, and none stands twice."""
    memory = Memory(tuple(marks), (SIGNERS[0],)).plus(mark, SIGNERS[1])
    assert (mark, SIGNERS[1]) == (memory.marks[0], memory.signers[0])
    assert 1 == [m.archive for m in memory.marks].count(mark.archive)
