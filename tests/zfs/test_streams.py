"""What zfs says, release by release, is read right; data in tests/captures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from standfast.errors import UsageError
from standfast.testing.host import Line, ScriptedHost
from standfast.zfs.names import check_dataset, split_snapshot
from standfast.zfs.streams import (
    SnapshotFacts,
    check_flags,
    estimate,
    exists,
    snapshot_facts,
)

if TYPE_CHECKING:
    from pathlib import Path

CAPTURES = sorted((ROOT / "tests" / "captures").glob("*-zfs-*.json"))
ESTIMATES = [path for path in CAPTURES if "zfs-send" in path.name]


def load(path: Path) -> tuple[ScriptedHost, Any]:
    data = json.loads(path.read_text())
    line = Line(tuple(data["argv"]), data["code"], data["stdout"], data["stderr"])
    return ScriptedHost([line]), data


@pytest.mark.parametrize("path", ESTIMATES, ids=lambda path: path.stem)
def test_estimate(path: Path) -> None:
    """The size line counts wherever it is; without one, referenced stands in."""
    host, data = load(path)
    expected = 4096 if data["expect"] is None else data["expect"]
    assert expected == estimate(host, [data["argv"][-1]], 4096)


def test_size_on_standard_error() -> None:
    """Releases before 2013 print the estimate on standard error."""
    argv = ("zfs", "send", "-n", "-v", "-P", "a@b")
    host = ScriptedHost([Line(argv, 0, "", "full\ta@b\t123\nsize\t123\n")])
    assert estimate(host, ["a@b"], 1) == 123


def test_snapshot_facts() -> None:
    host, data = load(next(p for p in CAPTURES if "zfs-get-snapshot" in p.name))
    expected = SnapshotFacts(data["argv"][-1], **data["expect"])
    assert expected == snapshot_facts(host, data["argv"][-1])


def test_missing_snapshot() -> None:
    """A snapshot that is not there is the user's mistake, in one line."""
    host, data = load(next(p for p in CAPTURES if "zfs-get-missing" in p.name))
    with pytest.raises(UsageError) as caught:
        snapshot_facts(host, data["argv"][-1])
    assert data["expect"] == caught.value.message


def test_exists_is_never_guessed() -> None:
    """Only "does not exist" means no; any other failure is an error."""
    argv = ("zfs", "get", "-Hp", "-o", "value", "type", "tank/x")
    gone = Line(argv, 1, "", "cannot open 'tank/x': dataset does not exist\n")
    assert not exists(ScriptedHost([gone]), "tank/x")
    assert exists(ScriptedHost([Line(argv, 0, "filesystem\n", "")]), "tank/x")
    denied = Line(argv, 1, "", "cannot open 'tank/x': permission denied\n")
    with pytest.raises(Exception, match="permission denied"):
        exists(ScriptedHost([denied]), "tank/x")


@pytest.mark.parametrize(
    "flag", ["-n", "-v", "-i", "-I", "-t", "-S", "-Lv", "--dryrun", "x", "-", ""]
)
def test_flags_that_give_no_whole_stream(flag: str) -> None:
    with pytest.raises(UsageError):
        check_flags([flag])


def test_flags_that_do() -> None:
    check_flags(["-w", "-L", "-c", "-e", "-R", "-p", "--large-block"])


@pytest.mark.parametrize(
    "name", ["tank", "tank/a b", "tank/a@", "@x", "tank/a@b@c", "-x@y", "tank/a@b/c"]
)
def test_names_that_are_no_snapshot(name: str) -> None:
    with pytest.raises(UsageError):
        split_snapshot(name)


@given(st.text(max_size=20), st.text(max_size=20))
def test_names_pass_whole_or_not_at_all(dataset: str, snapshot: str) -> None:
    """What is accepted comes back unchanged, and holds nothing that needs quoting."""
    try:
        found = split_snapshot(f"{dataset}@{snapshot}")
    except UsageError:
        return
    assert (dataset, snapshot) == found
    assert check_dataset(dataset) == dataset
    assert not set(dataset + snapshot) & set("'\"\\$;|&<>\n\0!")
