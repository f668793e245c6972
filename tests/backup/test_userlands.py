"""The far end's scripts, run by sh with only the programs that a system's base has.

Linux's set is the real thing. FreeBSD's is what cannot be run here, so its two
programs that Linux lacks are stood in for: ``sha256 -r`` (FreeBSD before 14 has no
sha256sum) and ``fsync`` (whose sync does not wait), each a few lines of sh that
refuse any use but the documented one.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from conftest import need

from standfast.backup.stores.ssh import SshStore
from standfast.host.local import LocalHost
from standfast.pace import Unlimited

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from standfast.host.process import Process

COMMON = ["cat", "find", "ln", "ls", "mkdir", "mv", "rm", "tar", "wc", "xargs"]
# sha256(1): -r "reverses the format of the output": digest, space, name.
SHA256 = """#!/bin/sh
[ "$1" = -r ] || exit 64
shift
for name in "$@"; do
    case "$name" in -*) exit 64 ;; esac
    sum=$({sha256sum} <"$name") || {{ bad=1; continue; }}
    echo "${{sum%% *}} $name"
done
exit ${{bad:-0}}
"""
# fsync(1): files only as arguments, no options.
FSYNC = """#!/bin/sh
[ $# -gt 0 ] || exit 64
for name in "$@"; do
    case "$name" in -*) exit 64 ;; esac
    {sync} "$name" || bad=1
done
exit ${{bad:-0}}
"""


class BareHost(LocalHost):
    """This machine with nothing in PATH but one folder, and an empty environment."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def spawn(
        self, argv: Sequence[str], *, stdin: bool = False, stdin_fd: int | None = None
    ) -> Process:
        bare = ["/usr/bin/env", "-i", f"PATH={self._path}", *argv]
        return super().spawn(bare, stdin=stdin, stdin_fd=stdin_fd)


def link_programs(folder: Path, names: Sequence[str]) -> None:
    need(*names)
    for name in names:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)


def make_program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@pytest.fixture(params=["linux", "freebsd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SshStore:
    folder = tmp_path / "bin"
    folder.mkdir()
    link_programs(folder, COMMON)
    if request.param == "linux":
        link_programs(folder, ["sha256sum", "sync"])
    else:
        sums, sync = shutil.which("sha256sum"), shutil.which("sync")
        make_program(folder, "sha256", SHA256.format(sha256sum=sums))
        make_program(folder, "fsync", FSYNC.format(sync=sync))
    root = str(tmp_path / "it's a vault")
    return SshStore(BareHost(folder), root, "ssh://bare/vault", Unlimited())


OBJECTS = {"vault.json": b"{}", "archives/" + "a" * 32 + "/00000000.zst.age": b"x" * 9}


def test_every_verb(store: SshStore, tmp_path: Path) -> None:
    """Create, put, list, get, hash, flush and delete need base programs only."""
    store.create()
    for name, data in OBJECTS.items():
        store.put(name, data)
    (tmp_path / "it's a vault" / "a link").symlink_to("vault.json")
    listed = {e.name: (e.kind, e.size) for e in store.entries()}
    assert ("other", 0) == listed.pop("a link")
    files = {name: size for name, (kind, size) in listed.items() if kind == "file"}
    assert {name: len(data) for name, data in OBJECTS.items()} == files
    assert OBJECTS == {name: store.get(name, 100) for name in OBJECTS}
    assert OBJECTS == store.get_small([*OBJECTS, "archives/none"], 100)
    digests = dict(store.digests([*OBJECTS, "archives/none"]))
    expected = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert expected == digests["vault.json"]
    assert OBJECTS.keys() == digests.keys()
    store.make_stable("")
    store.make_stable("archives/" + "a" * 32)
    store.delete_folder("archives/" + "a" * 32)
    store.delete("a link")
    assert ["archives", "vault.json"] == [e.name for e in store.entries()]
