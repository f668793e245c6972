"""Datasets, snapshots and bookmarks are listed by few commands, and read right."""

from __future__ import annotations

import contextlib
import json

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from standfast.errors import CommandError, UsageError
from standfast.host import Result
from standfast.testing.host import Line, ScriptedHost
from standfast.zfs.listing import list_tree

CAPTURE = ROOT / "tests" / "captures" / "linux-zfs-fuse-0.7.0-list-tree.json"
FIELDS = ("type", "guid", "createtxg", "creation", "userrefs", "referenced")
TYPES = ("-t", "filesystem,volume,snapshot,bookmark")
KEY = "standfast:vault-x"


def row(name: str, kind: str, guid: int, txg: int, holds: str = "-") -> str:
    values = (kind, guid, txg, 1700000000 + txg, holds, 4096)
    return "".join(
        f"{name}\t{key}\t{value}\t-\n"
        for key, value in zip(FIELDS, values, strict=True)
    )


class Answers:
    """A host that answers every command alike, and counts them."""

    name = "answers"

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self._answers = answers
        self.asked: list[list[str]] = []

    def run(self, argv: list[str], **_: object) -> Result:
        code, out, err = self._answers[min(len(self.asked), len(self._answers) - 1)]
        self.asked.append(list(argv))
        return Result(tuple(argv), code, out.encode(), err)


def test_zfs_fuse() -> None:
    """The oldest: no -t, no bookmarks, no encryption; three commands."""
    data = json.loads(CAPTURE.read_text())
    lines = [
        Line(tuple(each["argv"]), each["code"], each["stdout"], each["stderr"])
        for each in data["lines"]
    ]
    host = ScriptedHost(lines)
    listing = list_tree(host, ["bakAx/a"], ["standfast:vault-abc"])
    dataset = listing.dataset("bakAx/a")
    assert not listing.bookmarks
    assert "xyz" == dataset.properties["standfast:vault-abc"]
    assert dataset.snapshots == dataset.points
    assert [p.createtxg for p in dataset.points] == sorted(
        p.createtxg for p in dataset.points
    )
    assert "@s1" == dataset.points[0].short
    assert 1 == dataset.points[0].holds


def test_a_modern_one() -> None:
    """One command tells all, bookmarks and encryption included."""
    text = (
        row("tank", "filesystem", 1, 1)
        + "tank\tencryption\toff\tdefault\n"
        + f"tank\t{KEY}\t1 a=\tlocal\n"
        + row("tank/a b", "volume", 2, 2)
        + "tank/a b\tencryption\taes-256-gcm\t-\n"
        + f"tank/a b\t{KEY}\t1 a=\tinherited from tank\n"
        + row("tank/a b@one", "snapshot", 3, 9, "2")
        + row("tank/a b#mark", "bookmark", 3, 9)
        + row("tank/a b@nought", "snapshot", 4, 5, "0")
    )
    host = Answers((0, text, ""))
    listing = list_tree(host, ["tank"], [KEY])  # type: ignore[arg-type]
    assert 1 == len(host.asked)
    assert listing.bookmarks
    assert {KEY: "1 a="} == listing.dataset("tank").properties
    volume = listing.dataset("tank/a b")
    assert ({}, True, "volume") == (volume.properties, volume.encrypted, volume.kind)
    names = ["@nought", "@one", "#mark"]
    assert names == [point.short for point in volume.points]
    assert [0, 2, 0] == [point.holds for point in volume.points]
    assert ["tank", "tank/a b"] == [d.name for d in listing.below("tank")]


def test_between_the_two() -> None:
    """Bookmarks but no encryption, as before OpenZFS 0.8: two commands."""
    refused = "bad property list: invalid property 'encryption'"
    host = Answers((2, "", refused), (0, row("a", "filesystem", 1, 1), ""))
    assert list_tree(host, ["a"]).bookmarks  # type: ignore[arg-type]
    assert 2 == len(host.asked)


def test_many_datasets_are_one_command() -> None:
    """A thousand datasets with ten snapshots each: still one command."""
    text = "".join(
        row(f"tank/{n}", "filesystem", n, 1)
        + "".join(row(f"tank/{n}@{k}", "snapshot", n * 100 + k, k) for k in range(10))
        for n in range(1, 1001)
    )
    host = Answers((0, text, ""))
    roots = [f"tank/{n}" for n in range(1, 1001)]
    listing = list_tree(host, [*roots, "tank/1", "tank/2/below"])  # type: ignore[arg-type]
    assert (1, 1000) == (len(host.asked), len(listing.datasets))
    # What another root lists anyway is not asked for again.
    assert roots == host.asked[0][-1000:]


def test_what_is_not_there() -> None:
    """A missing dataset is the user's mistake; a broken zfs is none."""
    gone = "cannot open 'tank/x': dataset does not exist"
    with pytest.raises(UsageError, match="does not exist"):
        list_tree(Answers((1, "", gone)), ["tank/x"])  # type: ignore[arg-type]
    broken = "cannot open 'tank/x': I/O error"
    with pytest.raises(CommandError, match="I/O error"):
        list_tree(Answers((1, "", broken)), ["tank/x"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not a dataset name"):
        list_tree(Answers((0, "", "")), ["-r"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="there is no dataset"):
        list_tree(Answers((0, "", "")), ["a"]).dataset("a")  # type: ignore[arg-type]


def test_a_value_that_speaks_for_another() -> None:
    """A property with line feeds in it cannot put words into zfs's mouth."""
    forged = f"1\ntank/other\t{KEY}\tforged\tlocal"
    text = (
        row("tank/mine", "filesystem", 1, 1)
        + f"tank/mine\t{KEY}\t{forged}\n"
        + row("tank/other", "filesystem", 2, 1)
        + f"tank/other\t{KEY}\tgood\tlocal\n"
    )
    with pytest.raises(CommandError, match="twice"):
        list_tree(Answers((0, text, "")), ["tank"], [KEY])  # type: ignore[arg-type]


@given(text=st.text())
def test_any_answer(text: str) -> None:
    """Whatever zfs prints is a listing or one clear error."""
    with contextlib.suppress(CommandError):
        list_tree(Answers((0, text, "")), ["tank"], [KEY])  # type: ignore[arg-type]
