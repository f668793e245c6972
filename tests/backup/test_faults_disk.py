"""A far disk that is full, read-only or not ours: one line says so, no commit."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import (
    ForkServer,
    Made,
    Sshd,
    Standfast,
    incompressible,
    make_vault,
    need,
)
from faults import error_line, parts, remount, signatures, small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.system

SMALL = incompressible(70_000)
LARGE = incompressible(1_500_000, seed=2)


@dataclasses.dataclass
class Place:
    """A vault on a small disk of its own, with one whole archive."""

    forks: ForkServer
    client: Standfast
    disk: Path
    made: Made

    def send(self, data: bytes, ok: int) -> str:
        words = ("backup", "send", "--stdin", "x", self.made.address)
        ran = self.client(*words, stdin=data, ok=ok)
        return error_line(ran).lower() if ok else ""

    def assert_untouched(self, *, left: int) -> None:
        """The first archive is whole, and what failed is listed as no backup."""
        words = ("backup", "list", self.made.address, "--json")
        listed = self.forks.run(self.client, *words).json()["archives"]
        states = sorted(archive["state"] for archive in listed)
        assert ["committed"] + ["unfinished"] * left == states
        assert 1 == len(signatures(self.made))
        verdict = self.forks.run(self.client, "backup", "verify", self.made.address)
        assert "1 of 1 archives are whole" in verdict.out
        assert [] == parts(self.disk)


def make_place(
    forks: ForkServer, client: Standfast, disk: Path, address: str = ""
) -> Place:
    local = disk / "vault" if not address else client.folder / "vault"
    key = client.folder / "vault"
    made = make_vault(
        client, key, "--segment-size", "64k", address=address or str(local)
    )
    place = Place(forks, client, disk, dataclasses.replace(made, path=disk / "vault"))
    place.send(SMALL, ok=0)
    return place


@pytest.fixture(params=["directory", "ssh"])
def place(
    request: pytest.FixtureRequest,
    forks: ForkServer,
    standfast: Standfast,
    tmp_path: Path,
) -> Iterator[Place]:
    if request.param == "directory":
        with small_disk(tmp_path / "disk", "1m") as disk:
            yield make_place(forks, standfast, disk)
        return
    sshd: Sshd = request.getfixturevalue("plain_sshd")
    name = f"disk-{os.urandom(4).hex()}"
    with small_disk(sshd.home / name, "1m", sshd.user) as disk:
        client = sshd.client(standfast)
        yield make_place(forks, client, disk, sshd.address(f"{name}/vault"))


def test_full(place: Place) -> None:
    """The line says that no space is left; cleaning makes room for what fits."""
    assert "no space left on device" in place.send(LARGE, ok=1)
    place.assert_untouched(left=1)
    place.client("backup", "clean", place.made.address)
    place.send(SMALL, ok=0)
    assert 2 == len(signatures(place.made))


def test_read_only(place: Place) -> None:
    """The line says that the file system is read-only; reading goes on."""
    remount(place.disk, "ro")
    assert "read-only file system" in place.send(SMALL, ok=1)
    place.assert_untouched(left=0)


def test_read_only_in_between(place: Place) -> None:
    """So does that of clean, which removes nothing."""
    place.send(LARGE, ok=1)
    before = sorted(place.disk.rglob("*"))
    remount(place.disk, "ro")
    ran = place.client("backup", "clean", place.made.address, ok=1)
    assert "read-only file system" in error_line(ran).lower()
    assert before == sorted(place.disk.rglob("*"))


def test_full_at_every_page(
    forks: ForkServer, standfast: Standfast, tmp_path: Path
) -> None:
    """Wherever the last free page goes: no commit, and no part stays.

    From too small for the first segment to enough for all, a page at a time.
    """
    stdin = tmp_path / "stdin"
    stdin.write_bytes(incompressible(10_000))
    with small_disk(tmp_path / "disk", "1m") as disk:
        place = make_place(forks, standfast, disk)
        used = shutil.disk_usage(disk).used // 1024
        argv = ["backup", "send", "--stdin", "x", place.made.address]
        failures = 0
        for room in range(0, 64, 4):
            remount(disk, f"size={used + room}k")
            ran = forks.ask(standfast, argv=argv, stdin=stdin)
            if ran.code == 0:
                break
            failures += 1
            assert "no space left on device" in error_line(ran)
            place.assert_untouched(left=min(1, len(place.made.archives()) - 1))
            forks.run(standfast, "backup", "clean", place.made.address)
        # Three pages for the segment, one each for manifest, sums and signature.
        assert failures >= 6
        assert 2 == len(signatures(place.made))


def test_init_on_a_full_disk(standfast: Standfast, tmp_path: Path) -> None:
    """No vault, and the same address serves when there is room."""
    owner = make_vault(standfast, tmp_path / "other").recipient
    with small_disk(tmp_path / "disk", "8k") as disk:
        words = ("backup", "init", disk / "vault", "--recipient", owner)
        ran = standfast(*words, ok=1)
        assert "no space left on device" in error_line(ran)
        assert [] == parts(disk)
        remount(disk, "size=1m")
        standfast(*words)
        standfast("backup", "verify", disk / "vault")


@pytest.fixture
def shared(
    standfast: Standfast, plain_sshd: Sshd, forks: ForkServer
) -> Iterator[Place]:
    """A vault over ssh, as a login that permissions bind."""
    name = f"shared-{os.urandom(4).hex()}"
    folder = plain_sshd.home / name
    folder.mkdir()
    shutil.chown(folder, plain_sshd.user)
    client = plain_sshd.client(standfast)
    yield make_place(forks, client, folder, plain_sshd.address(f"{name}/vault"))
    shutil.rmtree(folder)


def test_may_not_write(shared: Place) -> None:
    """The line says that permission is denied; reading goes on."""
    shutil.chown(shared.made.path / "archives", "root")
    (shared.made.path / "archives").chmod(0o755)
    assert "permission denied" in shared.send(SMALL, ok=1)
    shared.assert_untouched(left=0)


@pytest.mark.parametrize(
    ("verb", "which"), [("send", "vault"), ("send", "above"), ("verify", "above")]
)
def test_may_not_enter(shared: Place, verb: str, which: str) -> None:
    """A vault that may not be entered is there: it is not called missing."""
    locked = shared.made.path if which == "vault" else shared.disk
    shutil.chown(locked, "root")
    locked.chmod(0o700)
    words = ["--stdin", "x"] if verb == "send" else []
    ran = shared.client("backup", verb, *words, shared.made.address, ok=1)
    assert "permission denied" in error_line(ran).lower()


def test_init_where_one_may_not(standfast: Standfast, plain_sshd: Sshd) -> None:
    """Nor can a vault be made there, which the line says."""
    client = plain_sshd.client(standfast)
    address = f"ssh://{plain_sshd.user}@127.0.0.1:{plain_sshd.port}/etc/vault"
    key = standfast.folder / "key"
    words = ("backup", "init", address, "--new-identity", key)
    assert "permission denied" in error_line(client(*words, ok=1)).lower()


def test_local_folder_of_another_user(
    forks: ForkServer, standfast: Standfast, tmp_path: Path
) -> None:
    """The same for a directory, as a root that lost its right to pass everywhere."""
    need("setpriv")
    if os.geteuid() != 0:
        pytest.skip("giving files away needs root")
    place = make_place(forks, standfast, tmp_path)
    archives = place.made.path / "archives"
    nobody = 65534
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
    for path, mode in ((archives, 0o755), (place.made.path, 0o700)):
        os.chown(path, nobody, nobody)
        path.chmod(mode)
        words = ("backup", "send", "--stdin", "x", place.made.path)
        done = subprocess.run(
            [*bound, *standfast.argv(*words)],
            input=SMALL,
            capture_output=True,
            env=standfast.env,
            cwd=standfast.folder,
            timeout=60,
            check=False,
        )
        assert 1 == done.returncode, done
        lines = done.stderr.decode().splitlines()
        errors = [line for line in lines if "standfast: error: " in line]
        assert 1 == len(errors)
        assert errors[0].endswith("permission denied")
    place.assert_untouched(left=0)
