"""What is taken out of a vault is what a mounted clone shows, on real ZFS."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from changes import Facts, Life, facts
from conftest import Made, Pool, Standfast, make_vault

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.system

SNAPSHOTS = ("s1", "s2", "s3", "s4")


@dataclasses.dataclass
class History:
    """A dataset with four snapshots, and what each looks like when it is mounted."""

    pool: Pool
    dataset: str
    facts: dict[str, Facts]

    def send(self, *words: str) -> bytes:
        argv = ["zfs", "send", *words]
        return subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def history(pool: Pool) -> History:
    if os.geteuid() != 0:
        pytest.skip("owners and devices need root")
    dataset = f"{pool.name}/browse"
    pool.zfs("create", dataset)
    life = Life(pool.mount / "browse", seed=11)
    seen: dict[str, Facts] = {}
    life.begin()
    for number, name in enumerate(SNAPSHOTS):
        if number:
            life.go_on(60)
        pool.zfs("snapshot", f"{dataset}@{name}")
        clone = f"{pool.name}/look-{name}"
        pool.zfs("clone", f"{dataset}@{name}", clone)
        seen[name] = facts(pool.mount / f"look-{name}")
    return History(pool, dataset, seen)


def put(standfast: Standfast, made: Made, name: str, data: bytes) -> None:
    standfast("backup", "send", "--stdin", name, made.path, stdin=data)


def taken_out(standfast: Standfast, made: Made, point: str, place: Path) -> Facts:
    """Extract without any ZFS in reach, and return what came out."""
    blind = Standfast(standfast.folder, standfast.env | {"PATH": "/nonexistent"})
    blind("backup", "extract", made.path, point, "--to", place, "-i", made.key)
    return facts(place)


def check_all(
    standfast: Standfast, made: Made, history: History, names: tuple[str, ...]
) -> None:
    for name in names:
        place = standfast.folder / f"{made.path.name}-{name}"
        found = taken_out(standfast, made, f"{history.dataset}@{name}", place)
        assert history.facts[name] == found


def test_a_chain_of_increments(
    standfast: Standfast, vault: Made, history: History
) -> None:
    """Full and three increments: each snapshot comes out as it was mounted."""
    full = history.send(f"{history.dataset}@s1")
    put(standfast, vault, "full", full)
    for old, new in (("s1", "s2"), ("s2", "s3"), ("s3", "s4")):
        step = history.send("-i", f"@{old}", f"{history.dataset}@{new}")
        put(standfast, vault, new, step)
    check_all(standfast, vault, history, SNAPSHOTS)
    commands(standfast, vault, history)


def commands(standfast: Standfast, made: Made, history: History) -> None:
    """List, find, compare and print agree with the mounted clones."""
    key = ("-i", made.key, "--json")
    last = history.facts["s4"]
    point = f"{history.dataset}@s4"
    listed = standfast("backup", "ls", made.path, point, "-r", *key).json()["files"]
    assert set(last) == {file["path"] for file in listed}
    sizes = {f["path"]: f["size"] for f in listed if f["kind"] == "file"}
    assert sizes == {p: f[5] for p, f in last.items() if str(f[0])[0] == "-"}
    names = standfast("backup", "ls", made.path, point, "many", "--names", *key).json()
    here = {p.partition("/")[2] for p in last if p.startswith("many/")}
    assert here == set(names["names"])
    check_find(standfast, made, history)
    check_diff(standfast, made, history)
    largest = max((f[5], p) for p, f in last.items() if str(f[0])[0] == "-")[1]
    words = ("backup", "cat", made.path, point, largest, "-i", made.key)
    printed = subprocess.run(
        standfast.argv(*words), env=standfast.env, capture_output=True, check=True
    ).stdout
    assert last[largest][6] == hashlib.sha256(printed).hexdigest()


def check_find(standfast: Standfast, made: Made, history: History) -> None:
    found = standfast(
        "backup", "find", made.path, "new-*", "-i", made.key, "--json"
    ).json()
    wanted = {
        (path, name)
        for name, tree in history.facts.items()
        for path in tree
        if path.rpartition("/")[2].startswith("new-")
    }
    seen = {
        (file["path"], point.partition("@")[2])
        for file in found["files"]
        for version in file["versions"]
        for point in version["points"]
    }
    assert wanted == seen
    for file in found["files"]:
        for version in file["versions"]:
            same = {
                history.facts[point.partition("@")[2]][file["path"]]
                for point in version["points"]
            }
            # Another link to it changes it; all else must be one and the same.
            assert 1 == len({(*one[:3], *one[4:]) for one in same})


def check_diff(standfast: Standfast, made: Made, history: History) -> None:
    for one, two in (("s1", "s2"), ("s2", "s4"), ("s4", "s1")):
        words = [f"{history.dataset}@{name}" for name in (one, two)]
        found: list[dict[str, Any]] = standfast(
            "backup", "diff", made.path, *words, "-i", made.key, "--json"
        ).json()["differences"]
        old, new = history.facts[one], history.facts[two]
        gone = {d["path"] for d in found if d["kind"] == "removed"}
        moved = {d["before"] for d in found if d["kind"] == "renamed"}
        assert set(old) - set(new) == gone | moved
        fresh = {d["path"] for d in found if d["kind"] in {"added", "renamed"}}
        assert set(new) - set(old) == fresh
        changed = {d["path"] for d in found if d["kind"] in {"changed", "attributes"}}
        differs = {p for p in set(old) & set(new) if old[p] != new[p]}
        assert differs <= changed
        assert all(p in old and p in new for p in changed)


def test_many_steps_in_one_stream(
    standfast: Standfast, tmp_path: Path, history: History
) -> None:
    """-I: a compound stream; without an index, the first look makes one."""
    made = make_vault(standfast, tmp_path / "steps", "--segment-size", "64k")
    words = ("backup", "send", "--no-index", "--stdin")
    first = history.send(f"{history.dataset}@s1")
    standfast(*words, "first", made.path, stdin=first)
    rest = history.send("-I", "@s1", f"{history.dataset}@s4")
    standfast(*words, "rest", made.path, stdin=rest)
    assert not list(made.path.rglob("index.age"))
    check_all(standfast, made, history, ("s3", "s4"))
    cached = list((tmp_path / ".cache" / "standfast" / "index").iterdir())
    assert 4 == len(cached)
    assert {0o600} == {path.stat().st_mode & 0o777 for path in cached}
    # Long enough not to turn up in sealed bytes by chance.
    assert all(b"new-45" not in path.read_bytes() for path in cached)


def test_deduplicated(standfast: Standfast, tmp_path: Path, history: History) -> None:
    """-D: blocks that are references to other files' blocks."""
    made = make_vault(standfast, tmp_path / "dedup", "--segment-size", "64k")
    put(standfast, made, "all", history.send("-D", f"{history.dataset}@s4"))
    check_all(standfast, made, history, ("s4",))


def test_an_increment_whose_base_is_gone(
    standfast: Standfast, tmp_path: Path, history: History
) -> None:
    made = make_vault(standfast, tmp_path / "alone")
    put(standfast, made, "x", history.send("-i", "@s1", f"{history.dataset}@s2"))
    point = f"{history.dataset}@s2"
    ran = standfast("backup", "ls", made.path, point, "-i", made.key, ok=13)
    assert "increment on snapshot" in ran.err


def test_a_tree_with_a_clone(standfast: Standfast, tmp_path: Path, pool: Pool) -> None:
    """-R: children, and a clone whose stream begins at another dataset's snapshot."""
    top = f"{pool.name}/tree"
    pool.zfs("create", top)
    pool.zfs("create", f"{top}/child")
    life = Life(pool.mount / "tree" / "child", seed=5)
    life.begin()
    pool.zfs("snapshot", "-r", f"{top}@one")
    pool.zfs("clone", f"{top}/child@one", f"{top}/clone")
    changed = Life(pool.mount / "tree" / "clone", seed=6)
    changed.number = 1000
    changed.go_on(40)
    pool.zfs("snapshot", "-r", f"{top}@two")
    wanted = {name: facts(pool.mount / "tree" / name) for name in ("child", "clone")}
    made = make_vault(standfast, tmp_path / "tree", "--segment-size", "64k")
    argv = ["zfs", "send", "-R", f"{top}@two"]
    data = subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout
    put(standfast, made, "all", data)
    for name, tree in wanted.items():
        place = tmp_path / f"out-{name}"
        assert tree == taken_out(standfast, made, f"{top}/{name}@two", place)
    points = standfast("backup", "ls", made.path, "-i", made.key, "--json").json()
    names = {point["name"] for point in points["points"]}
    assert {f"{top}/child@one", f"{top}/clone@two", f"{top}@two"} <= names


def test_increments_that_send_planned(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """What `send` itself makes of one snapshot after another is read as one chain."""
    dataset = f"{pool.name}/planned"
    pool.zfs("create", dataset)
    life = Life(pool.mount / "planned", seed=8)
    life.begin()
    for name in ("one", "two", "three"):
        pool.zfs("snapshot", f"{dataset}@{name}")
        standfast("backup", "send", f"{dataset}@{name}", vault.path)
        wanted = facts(pool.mount / "planned")
        place = standfast.folder / name
        assert wanted == taken_out(standfast, vault, f"{dataset}@{name}", place)
        life.go_on(30)
    assert 3 == len(list(vault.path.rglob("index.age")))
    points = standfast("backup", "ls", vault.path, "-i", vault.key, "--json").json()
    bases = [point["from_guid"] for point in points["points"]]
    assert ["0", *(point["guid"] for point in points["points"][:2])] == bases
