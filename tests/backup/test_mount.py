"""`backup mount`: real FUSE, real vaults, compared with the files themselves."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import COMMAND, Made, Pool, Standfast, incompressible, need, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.system


@contextlib.contextmanager
def mounted(
    standfast: Standfast, vault: Made, *options: object
) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """Mount a vault, and unmount it at the end however the test went."""
    need("fusermount3")
    pytest.importorskip("mfusepy", reason="mfusepy is not installed")
    if not Path("/dev/fuse").exists():
        pytest.skip("/dev/fuse is not there")
    folder = standfast.folder / "mnt"
    folder.mkdir()
    words = ("backup", "mount", vault.path, folder, "--identity", vault.key)
    with standfast.start(*words, "--json", *options) as process:
        yield from _until_unmounted(folder, process)


def _until_unmounted(
    folder: Path, process: subprocess.Popen[bytes]
) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    try:
        wait_until(
            lambda: os.path.ismount(folder) or process.poll() is not None, "the mount"
        )
        if process.poll() is not None:
            assert process.stderr is not None
            pytest.fail(process.stderr.read().decode())
        yield folder, process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=20)
        subprocess.run(["fusermount3", "-uzq", folder], check=False)


def picture(top: Path) -> dict[str, tuple[object, ...]]:
    """What a person sees of a tree: kinds, modes, owners, times, contents, links."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        found = path.lstat()
        facts: tuple[object, ...] = (
            stat.S_IFMT(found.st_mode),
            stat.S_IMODE(found.st_mode),
            found.st_uid,
            found.st_gid,
            int(found.st_mtime),
        )
        if stat.S_ISREG(found.st_mode):
            facts += (path.read_bytes(), found.st_nlink)
        elif stat.S_ISLNK(found.st_mode):
            facts += (str(path.readlink()),)
        seen[str(path.relative_to(top))] = facts
    return seen


@pytest.fixture
def sent(
    standfast: Standfast, vault: Made, pool: Pool
) -> tuple[str, dict[str, dict[str, tuple[object, ...]]]]:
    """A dataset with two snapshots in a vault, and how each looked."""
    name = f"mount{os.urandom(3).hex()}"
    files = {
        "deep/er/file": incompressible(300_000),
        "text": b"one\n" * 50_000,
        "empty": b"",
        "with space": b"x",
    }
    full = f"{pool.name}/{name}"
    pool.zfs("create", full)
    top = pool.mount / name
    for path, data in files.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_bytes(data)
    os.link(top / "text", top / "text-again")
    (top / "link").symlink_to("deep/er")
    with (top / "sparse").open("wb") as file:
        file.seek(3_000_000)
        file.write(b"end")
    (top / "text").chmod(0o640)
    os.chown(top / "text", 1234, 4321)
    os.mkfifo(top / "pipe")
    looks = {}
    for snapshot in ("s1", "s2"):
        if snapshot == "s2":
            (top / "deep/er/file").write_bytes(incompressible(200_000, 2))
            (top / "empty").unlink()
            (top / "with space").rename(top / "renamed")
        pool.zfs("snapshot", f"{full}@{snapshot}")
        looks[snapshot] = picture(top)
        standfast("backup", "send", f"{full}@{snapshot}", vault.path)
    return full, looks


def test_every_snapshot_is_a_folder(
    standfast: Standfast,
    vault: Made,
    sent: tuple[str, dict[str, dict[str, tuple[object, ...]]]],
) -> None:
    full, looks = sent
    above, _, last = full.rpartition("/")
    with mounted(standfast, vault) as (folder, process):
        assert {f"{last}@s1", f"{last}@s2"} == {
            path.name for path in (folder / above).iterdir()
        }
        for snapshot, look in looks.items():
            assert look == picture(folder / f"{full}@{snapshot}"), snapshot
        file = folder / f"{full}@s1" / "deep/er/file"
        # From the middle, over its end, and again from the start.
        with file.open("rb") as opened:
            opened.seek(299_000)
            assert incompressible(300_000)[299_000:] == opened.read(5_000)
            opened.seek(0)
            assert incompressible(300_000)[:10] == opened.read(10)
        # Files of two snapshots must not look like one file with two names.
        inodes = [(folder / f"{full}@{s}" / "text").stat().st_ino for s in looks]
        assert 2 == len(set(inodes))
        again = (folder / f"{full}@s1" / "text-again").stat()
        assert inodes[0] == again.st_ino
        assert (folder / f"{full}@s1" / "sparse").stat().st_blocks >= 1
        process.send_signal(signal.SIGINT)
        assert 0 == process.wait(timeout=20)
        assert not os.path.ismount(folder)
        assert process.stdout is not None
        assert {"mounted": str(folder), "snapshots": 2} == json.loads(
            process.stdout.read()
        )


def test_nothing_can_be_changed(
    standfast: Standfast,
    vault: Made,
    sent: tuple[str, dict[str, dict[str, tuple[object, ...]]]],
) -> None:
    full, _ = sent
    with mounted(standfast, vault) as (folder, _process):
        inside = folder / f"{full}@s1"
        attempts = (
            lambda: (inside / "text").write_bytes(b"x"),
            (inside / "new").touch,
            (inside / "text").unlink,
            lambda: (inside / "text").rename(inside / "other"),
            (inside / "d").mkdir,
            lambda: (inside / "text").chmod(0o777),
            lambda: os.truncate(inside / "text", 0),
        )
        for attempt in attempts:
            with pytest.raises(OSError, match=r"Read-only") as caught:
                attempt()
            assert errno.EROFS == caught.value.errno
        with pytest.raises(FileNotFoundError):
            (inside / "nothing").stat()
        with pytest.raises(NotADirectoryError):
            (inside / "text" / "below").stat()


def test_unmounting_ends_it(
    standfast: Standfast,
    vault: Made,
    sent: tuple[str, dict[str, dict[str, tuple[object, ...]]]],  # noqa: ARG001 - it fills the vault
) -> None:
    with mounted(standfast, vault) as (folder, process):
        subprocess.run(["fusermount3", "-u", folder], check=True)
        assert 0 == process.wait(timeout=20)


def test_damage_is_an_error_of_that_file_alone(
    standfast: Standfast,
    vault: Made,
    sent: tuple[str, dict[str, dict[str, tuple[object, ...]]]],
) -> None:
    """A segment that was altered: what lies in it cannot be read, the rest can."""
    full, looks = sent
    # The second archive is the increment, which holds the new contents of the file.
    archives = sorted(vault.archives(), key=lambda path: path.stat().st_mtime)
    for segment in archives[-1].glob("*.zst.age"):
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 1
        segment.write_bytes(data)
    with mounted(standfast, vault) as (folder, process):
        with pytest.raises(OSError, match=r"Input/output") as caught:
            (folder / f"{full}@s2" / "deep/er/file").read_bytes()
        assert errno.EIO == caught.value.errno
        assert looks["s1"] == picture(folder / f"{full}@s1")
        process.terminate()
        process.wait(timeout=20)
        assert process.stderr is not None
        assert b"altered" in process.stderr.read()


def test_where_it_cannot_be_mounted(
    standfast: Standfast, vault: Made, tmp_path: Path
) -> None:
    key = ("--identity", vault.key)
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    for place, words in ((full, "is not empty"), (tmp_path / "no", "cannot mount on")):
        ran = standfast("backup", "mount", vault.path, place, *key, ok=2)
        assert words in ran.err
    ran = standfast("backup", "mount", vault.path, tmp_path / "no", ok=2)
    assert "cannot mount" in ran.err


def test_without_the_extra_it_says_what_to_install(
    standfast: Standfast, vault: Made, tmp_path: Path
) -> None:
    """Where mfusepy cannot be imported."""
    (tmp_path / "mfusepy.py").write_text("raise ImportError\n")
    (tmp_path / "mnt").mkdir()
    env = standfast.env | {"PYTHONPATH": str(tmp_path)}
    words = ["backup", "mount", str(vault.path), "mnt", "--identity", str(vault.key)]
    ran = subprocess.run(
        [*COMMAND, *words],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert 1 == ran.returncode
    assert b"pip install 'standfast[mount]'" in ran.stderr
    assert sys.executable == COMMAND[0]
