"""A dataset with all below it, as one archive and its increments."""

from __future__ import annotations

import dataclasses
import os
import subprocess

import pytest
from chains import History, begin, sent
from conftest import ForkServer, Made, Pool, Standfast, incompressible, need

pytestmark = [pytest.mark.system, pytest.mark.zfs_any]


@pytest.fixture
def standfast(standfast: Standfast, forks: ForkServer) -> Standfast:
    """The command, quicker: these tests run it hundreds of times."""
    return dataclasses.replace(standfast, forks=forks)


class Tree:
    """A dataset with two below it, and their files at each snapshot."""

    def __init__(self, pool: Pool, label: str) -> None:
        self.top = begin(pool, label)
        self.pool = pool
        self.children = {name: self.below(name) for name in ("home", "mail")}
        self.states: dict[str, dict[str, bytes]] = {}

    def below(self, name: str) -> History:
        history = History(self.pool, f"{self.top.name}/{name}")
        self.pool.zfs("create", history.full)
        history.write("its own", name.encode() * 1000)
        return history

    def step(self, number: int) -> None:
        for name, history in self.children.items():
            history.write(f"{name}-{number}", incompressible(70_000, number))
        self.top.write("changed", b"state %d\n" % number)
        self.top.snapshot(f"s{number}", "-r")
        self.states[f"s{number}"] = self.pool.tree(self.top.name)


def restored(
    standfast: Standfast, made: Made, pool: Pool, wanted: str
) -> dict[str, bytes]:
    target = f"tree-{os.urandom(3).hex()}"
    words = ("backup", "restore", made.path, wanted, f"{pool.name}/{target}")
    standfast(*words, "-i", made.key)
    return pool.tree(target)


def test_a_tree_and_its_increments(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """Datasets that come later come too; one of them can be had alone."""
    tree = Tree(pool, "tree")
    for number in (1, 2, 3):
        if number == 2:
            tree.children["late"] = tree.below("late")
        tree.step(number)
        document = sent(standfast, "-R", tree.top.full, vault.path)
        before = tree.top.guid(f"s{number - 1}") if number > 1 else None
        assert before == document["from_guid"]
    assert not sent(standfast, "--tree", tree.top.full, vault.path)["sent"]
    for state in ("s1", "s3"):
        found = restored(standfast, vault, pool, f"{tree.top.full}@{state}")
        assert tree.states[state] == found
    for name in ("home", "late"):
        history = tree.children[name]
        found = restored(standfast, vault, pool, f"{history.full}@s3")
        assert pool.tree(history.name) == found
    listed = standfast("backup", "verify", vault.path, "--level", "decrypt",
                       "-i", vault.key).out  # fmt: skip
    assert "3 of 3 archives are whole" in listed


def test_a_replaced_snapshot_is_no_base(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """One snapshot below was made anew under its name: the plan says so."""
    tree = Tree(pool, "replaced")
    tree.step(1)
    sent(standfast, "-R", tree.top.full, vault.path)
    mail = f"{tree.children['mail'].full}@s1"
    tag = f"standfast:{vault.id[:8]}-tree"
    pool.zfs("release", tag, mail)
    pool.zfs("destroy", mail)
    pool.zfs("snapshot", mail)
    tree.step(2)
    ran = standfast("backup", "send", "-R", tree.top.full, vault.path, ok=2)
    assert "was replaced since it was sent" in ran.err
    document = sent(standfast, "-R", "--full", tree.top.full, vault.path)
    assert document["from_guid"] is None
    found = restored(standfast, vault, pool, f"{tree.top.full}@s2")
    assert tree.states["s2"] == found


def test_trees_and_single_datasets_do_not_disturb_each_other(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """One dataset may be sent alone and in a tree, with a chain of its own each."""
    tree = Tree(pool, "both")
    tree.step(1)
    sent(standfast, "-R", tree.top.full, vault.path)
    single = sent(standfast, tree.top.full, vault.path)
    assert (True, None) == (single["sent"], single["from_guid"])
    tree.step(2)
    archives = []
    for words in (("-R",), ()):
        document = sent(standfast, *words, tree.top.full, vault.path)
        assert tree.top.guid("s1") == document["from_guid"]
        archives.append(document["archive"])
    whole, alone = (restored(standfast, vault, pool, a) for a in archives)
    assert tree.states["s2"] == whole
    assert {n: d for n, d in whole.items() if "-" not in n and "its" not in n} == alone


def test_a_clone_alone_is_no_tree(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """What builds on a dataset outside of the tree is refused, before it counts."""
    origin = begin(pool, "origin")
    origin.step(1)
    clone = History(pool, f"clone-{os.urandom(3).hex()}")
    pool.zfs("clone", f"{origin.full}@s1", clone.full)
    clone.write("more", b"more")
    clone.snapshot("c1")
    ran = standfast("backup", "send", "-R", clone.full, vault.path, ok=1)
    assert "a clone needs its origin in the same tree" in ran.err
    assert "0 of 0 archives" in standfast("backup", "verify", vault.path).out
    sent(standfast, clone.full, vault.path)
    clone.restored(vault, standfast, "c1")


def test_recovery_text_brings_a_tree_back(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """RECOVER.txt receives a tree and its increment, too."""
    need("age", "minisign", "zstd", "sha256sum")
    tree = Tree(pool, "stocktree")
    for number in (1, 2):
        tree.step(number)
        sent(standfast, "-R", tree.top.full, vault.path)
    text = (vault.path / "RECOVER.txt").read_text()
    script = "\n".join(ln[4:] for ln in text.splitlines() if ln.startswith("    "))
    target = f"stock-{os.urandom(3).hex()}"
    stock = {
        "PATH": os.environ["PATH"],
        "HOME": str(standfast.folder),
        "VAULT": str(vault.path),
        "KEY": str(vault.key),
        "WANT": f"{tree.top.full}@s2",
        "TARGET": f"{pool.name}/{target}",
    }
    subprocess.run(["sh", "-c", script], env=stock, check=True, timeout=120)
    assert tree.states["s2"] == pool.tree(target)
