"""Looking inside archives of made streams and of samples: no ZFS is needed here."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import Made, Sshd, Standfast, incompressible, make_vault, sample
from streammaker import StreamMaker, simple_tree
from trees import read_sample

from standfast.backup.browse.place import linux_xattr

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import ForkServer, Ran

REG, DIR, LNK = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK
POINT = "pool/fs@snap"


def put(standfast: Standfast, made: Made, data: bytes, *words: str) -> None:
    standfast("backup", "send", "--stdin", "x", made.path, *words, stdin=data)


class Looking:
    """The reading commands on one vault."""

    def __init__(self, forks: ForkServer, standfast: Standfast, made: Made) -> None:
        self.forks, self.standfast, self.made = forks, standfast, made
        self.out = standfast.folder / "out"

    def __call__(self, verb: str, *words: object, ok: int | None = 0) -> Ran:
        line = ("backup", verb, self.made.path, *words, "-i", self.made.key)
        return self.forks.run(self.standfast, *line, ok=ok)

    def extract(self, *words: object, ok: int | None = 0) -> Ran:
        return self("extract", POINT, *words, "--to", self.out, "--json", ok=ok)


@pytest.fixture
def look(forks: ForkServer, standfast: Standfast, vault: Made) -> Looking:
    return Looking(forks, standfast, vault)


def test_one_file_reads_its_segments_only(
    standfast: Standfast, vault: Made, look: Looking
) -> None:
    """Of eighty segments one or two are opened for a small file."""
    maker = simple_tree([(b"f%d" % n, n, REG) for n in range(8, 48)])
    for number in range(8, 48):
        maker.file(number, incompressible(128 * 1024, seed=number))
    put(standfast, vault, maker.done())
    ran = look.extract("f30").json()
    assert 1 <= ran["segments_read"] <= 4
    wanted = incompressible(128 * 1024, seed=30)
    assert wanted == (look.out / "f30").read_bytes()
    assert stat.S_IMODE((look.out / "f30").stat().st_mode) == 0o644
    assert 1_700_000_000_123_456_789 == (look.out / "f30").stat().st_mtime_ns


def test_an_index_through_ssh(
    standfast: Standfast, plain_sshd: Sshd, tmp_path: Path
) -> None:
    """Parts of an index and one segment come from a host that has sh alone."""
    client = plain_sshd.client(standfast)
    address = plain_sshd.address(f"vault-{os.getpid()}")
    made = make_vault(
        client, tmp_path / "far", "--segment-size", "64k", address=address
    )
    maker = simple_tree([(b"f", 8, REG)])
    maker.file(8, b"from afar")
    client("backup", "send", "--stdin", "x", address, stdin=maker.done())
    words = ("backup", "cat", address, POINT, "f", "-i", made.key)
    assert "from afar" == client(*words).out


def test_devices_are_made_only_when_asked_for(
    standfast: Standfast, vault: Made, look: Looking
) -> None:
    if os.geteuid() != 0:
        pytest.skip("making devices needs root")
    maker = simple_tree([(b"null", 8, stat.S_IFCHR), (b"f", 9, REG)])
    maker.file(8, b"", mode=stat.S_IFCHR | 0o666, rdev=0x103)
    maker.file(9, b"x")
    put(standfast, vault, maker.done())
    ran = look.extract(ok=3)
    assert "--devices" in ran.json()["left_out"][0]["why"]
    assert ["f"] == [path.name for path in look.out.iterdir()]
    look.out = look.out.with_name("second")
    look.extract("--devices")
    state = (look.out / "null").stat()
    assert stat.S_ISCHR(state.st_mode)
    assert (1, 3) == (os.major(state.st_rdev), os.minor(state.st_rdev))


def test_nothing_is_overwritten_and_no_link_followed(
    standfast: Standfast, vault: Made, look: Looking
) -> None:
    """What lies in the target is left alone, and leads nowhere."""
    maker = simple_tree([(b"deep", 8, DIR), (b"there", 9, REG), (b"new", 11, REG)])
    maker.folder(8, [(b"file", 10, REG)])
    maker.file(9, b"ours")
    maker.file(10, b"ours")
    maker.file(11, b"ours")
    put(standfast, vault, maker.done())
    elsewhere = standfast.folder / "elsewhere"
    elsewhere.mkdir()
    look.out.mkdir()
    (look.out / "deep").symlink_to(elsewhere)
    (look.out / "there").write_bytes(b"theirs")
    ran = look.extract(ok=3).json()
    assert {"deep", "deep/file", "there"} == {one["path"] for one in ran["left_out"]}
    assert [] == list(elsewhere.iterdir())
    assert b"theirs" == (look.out / "there").read_bytes()
    assert b"ours" == (look.out / "new").read_bytes()
    assert "links are not followed" in look.extract("deep/file", ok=2).err
    assert [] == list(elsewhere.iterdir())
    assert "already" in look("extract", POINT, "there", "--to", look.out, ok=2).err


def test_a_link_of_the_backup_is_not_followed(
    standfast: Standfast, vault: Made, look: Looking
) -> None:
    """A link and a folder of one name: whoever wins, nothing lands outside."""
    target = os.fsencode(standfast.folder / "elsewhere")
    (standfast.folder / "elsewhere").mkdir()
    maker = simple_tree([(b"a", 8, LNK), (b"a", 9, DIR)])
    maker.file(8, target, mode=LNK | 0o777)
    maker.folder(9, [(b"file", 10, REG)])
    maker.file(10, b"outside?")
    put(standfast, vault, maker.done())
    look.extract(ok=3)
    assert [] == list((standfast.folder / "elsewhere").iterdir())


@pytest.mark.parametrize("name", [b"..", b"x/y", b"/etc"])
def test_impossible_names(
    standfast: Standfast, vault: Made, look: Looking, name: bytes
) -> None:
    """The folder that holds one is damaged; what is beside it comes out."""
    maker = simple_tree([(b"bad", 8, DIR), (b"good", 9, REG)])
    maker.folder(8, [(name, 10, REG)])
    maker.file(9, b"good")
    maker.file(10, b"evil")
    put(standfast, vault, maker.done())
    ran = look.extract(ok=13).json()
    assert ["bad"] == [one["path"] for one in ran["left_out"]]
    assert b"good" == (look.out / "good").read_bytes()
    assert ["x"] != [path.name for path in standfast.folder.iterdir()]
    assert "impossible name" in look("ls", POINT, "bad", ok=1).err


def test_a_path_from_the_command_line(
    standfast: Standfast, vault: Made, look: Looking
) -> None:
    put(standfast, vault, simple_tree([]).done())
    assert "not a path" in look("extract", POINT, "../x", "--to", "o", ok=2).err
    assert "has no nothing" in look("ls", POINT, "nothing", ok=2).err
    assert "no archive" in look("ls", "pool/other@x", ok=2).err


def test_folders_that_go_round(
    standfast: Standfast, vault: Made, look: Looking
) -> None:
    """A folder inside itself is named, and there is an end."""
    maker = simple_tree([(b"a", 8, DIR), (b"f", 9, REG)])
    maker.folder(8, [(b"b", 8, DIR), (b"up", 4, DIR)])
    maker.file(9, b"x")
    put(standfast, vault, maker.done())
    ran = look.extract(ok=13).json()
    assert {"a/b", "a/up"} == {one["path"] for one in ran["left_out"]}
    assert "twice" in look("ls", POINT, "-r", ok=1).err
    assert 3 == look("find", "f", ok=None).code


def test_sizes_that_cannot_be(standfast: Standfast, vault: Made, look: Looking) -> None:
    """A file of exabytes is refused by the system, named, and the rest comes out."""
    maker = simple_tree([(b"huge", 8, REG), (b"f", 9, REG)])
    maker.file(8, b"x", size=(1 << 64) - 1)
    maker.file(9, b"small")
    put(standfast, vault, maker.done())
    ran = look.extract(ok=None)
    assert ran.code in {3, 13}
    assert ["huge"] == [one["path"] for one in ran.json()["left_out"]]
    assert ["f"] == [path.name for path in look.out.iterdir()]


def test_a_damaged_segment(standfast: Standfast, vault: Made, look: Looking) -> None:
    """The file that lies in it is named and not made; the others are."""
    maker = simple_tree([(b"f%d" % n, n, REG) for n in range(8, 16)])
    for number in range(8, 16):
        maker.file(number, incompressible(128 * 1024, seed=number))
    put(standfast, vault, maker.done())
    victim = next(vault.path.rglob("00000007.zst.age"))
    raw = bytearray(victim.read_bytes())
    raw[1000] ^= 1
    victim.write_bytes(raw)
    ran = look.extract(ok=13).json()
    assert 1 <= len(ran["left_out"]) <= 2
    bad = {one["path"] for one in ran["left_out"]}
    assert "altered" in ran["left_out"][0]["why"]
    left = {path.name: path.read_bytes() for path in look.out.iterdir()}
    assert {f"f{n}" for n in range(8, 16)} - bad == set(left)
    for name, data in left.items():
        assert incompressible(128 * 1024, seed=int(name[1:])) == data


def test_a_damaged_index(standfast: Standfast, vault: Made, look: Looking) -> None:
    """Each part of it is proven before it is used; verify names it too."""
    maker = simple_tree([(b"f", 8, REG)])
    maker.file(8, b"x")
    put(standfast, vault, maker.done())
    victim = next(vault.path.rglob("index.age"))
    whole = victim.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 12)):
        raw = bytearray(whole)
        raw[place] ^= 1
        victim.write_bytes(raw)
        assert 13 == look("cat", POINT, "f", ok=None).code
    assert "index.age" in standfast("backup", "verify", vault.path, ok=13).out
    victim.write_bytes(whole[:-1])
    assert 13 == look("ls", POINT, ok=None).code
    victim.unlink()
    assert 13 == look("ls", POINT, ok=None).code


def test_an_index_of_another_archive(
    standfast: Standfast, vault: Made, look: Looking
) -> None:
    """Swapped between archives, each is refused: it is not the signed one."""
    for name in (b"one", b"two"):
        maker = simple_tree([(name, 8, REG)], guid=len(name) + name[0])
        maker.file(8, name)
        put(standfast, vault, maker.done())
    one, two = sorted(vault.path.rglob("index.age"))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert 13 == look("ls", POINT, ok=None).code


def test_volume(standfast: Standfast, vault: Made, look: Looking) -> None:
    """Holes stay holes; an increment changes a block; nothing is overwritten."""
    maker = StreamMaker("pool/vol@one", 3, kind=3)
    maker.object(1, 23, block=8192)
    maker.write(1, 8192, b"z" * 8192, 23)
    maker.write(1, 81920, b"y" * 8192, 23)
    maker.object(2, 24)
    maker.write(2, 0, maker.micro_block([(b"size", 64 << 20)]), 24)
    put(standfast, vault, maker.done())
    step = StreamMaker("pool/vol@two", 4, 3, kind=3)
    step.write(1, 8192, b"Z" * 8192, 23)
    step.free(1, 81920, 8192)
    put(standfast, vault, step.done())
    image = standfast.folder / "image"
    look("extract", "pool/vol@two", "--to", image)
    wanted = bytearray(64 << 20)
    wanted[8192:16384] = b"Z" * 8192
    assert wanted == image.read_bytes()
    assert image.stat().st_blocks * 512 < 1 << 20
    assert "exists" in look("extract", "pool/vol@one", "--to", image, ok=2).err
    assert "volume" in look("ls", "pool/vol@one").out
    assert [] == list(standfast.folder.glob(".image*"))


def test_what_is_not_a_send_stream(
    standfast: Standfast, vault: Made, look: Looking
) -> None:
    put(standfast, vault, b"just bytes" * 1000)
    assert not list(vault.path.rglob("index.age"))
    assert "no send stream" in look("ls", "x", ok=2).err


def test_without_a_key(standfast: Standfast, vault: Made) -> None:
    put(standfast, vault, simple_tree([]).done())
    assert "needs a key" in standfast("backup", "ls", vault.path, ok=12).err


def test_points_and_versions(standfast: Standfast, vault: Made, look: Looking) -> None:
    """find says which points have which version; diff what a step changed."""
    full = simple_tree([(b"same", 8, REG), (b"moves", 9, REG), (b"grows", 10, REG)])
    for number in (8, 9, 10):
        full.file(number, b"first")
    put(standfast, vault, full.done())
    step = StreamMaker("pool/fs@two", 8, 7)
    step.folder(4, [(b"same", 8, REG), (b"moved", 9, REG), (b"grows", 10, REG)])
    step.file(10, b"first and more")
    put(standfast, vault, step.done())
    points = look("ls", "--json").json()["points"]
    assert ["pool/fs@snap", "pool/fs@two"] == [point["name"] for point in points]
    found = look("find", "*", "--json").json()["files"]
    seen = {file["path"]: [v["points"] for v in file["versions"]] for file in found}
    one, two = ["pool/fs@snap"], ["pool/fs@two"]
    expected = {"same": [one + two], "moves": [one], "moved": [two]}
    assert expected | {"grows": [one, two]} == seen
    text = look("diff", POINT, "pool/fs@two").out.splitlines()
    assert ["M grows", "R moves -> moved"] == text
    assert "@snap, @two" in look("find", "same").out
    assert 1 == look("find", "nothing*", ok=None).code


def test_names_for_a_terminal(standfast: Standfast, vault: Made, look: Looking) -> None:
    """No name steers the terminal that shows it."""
    maker = simple_tree([(b"\x1b[31mred\xff", 8, REG)])
    maker.file(8, b"x")
    put(standfast, vault, maker.done())
    for verb in (("ls", POINT), ("find", "*"), ("ls", POINT, "--names")):
        out = look(*verb).out
        assert "\x1b" not in out
        assert "red" in out


def test_attributes_of_real_files(
    standfast: Standfast, vault: Made, look: Looking
) -> None:
    """Spilled extended attributes of OpenZFS are set again, where there can be any."""
    names = ("base-NATIVE", "incr-NATIVE")
    for name in names:
        path = sample(
            "streams", "openzfs", f"little-endian-all-drr-types-{name}.zsend.bz2"
        )
        put(standfast, vault, read_sample(path))
    point = "test/redacted@clean"
    look("extract", point, "--to", look.out, ok=None)
    probe = look.out / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.x", b"1")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    probe.unlink()
    sets = [os.listxattr(path) for path in look.out.rglob("*") if path.is_file()]
    assert 8 <= max(map(len, sets))


def test_extracting_twice_is_the_same(
    standfast: Standfast, vault: Made, look: Looking
) -> None:
    """A tree with hard links, made in batches, is what it was; cat agrees."""
    maker = simple_tree(
        [(b"a", 8, REG), (b"b", 8, REG), (b"d", 9, DIR), (b"e", 10, REG)]
    )
    maker.file(8, b"linked", links=3)
    maker.folder(9, [(b"c", 8, REG)])
    maker.file(10, b"")
    put(standfast, vault, maker.done())
    look.extract()
    states = [(look.out / name).stat().st_ino for name in ("a", "b", "d/c")]
    assert 1 == len(set(states))
    assert b"" == (look.out / "e").read_bytes()
    words = ("backup", "cat", vault.path, POINT, "d/c", "-i", vault.key)
    printed = subprocess.run(
        standfast.argv(*words), env=standfast.env, capture_output=True, check=True
    ).stdout
    digest = hashlib.sha256((look.out / "a").read_bytes()).digest()
    assert digest == hashlib.sha256(printed).digest()


def test_no_room_for_an_index(
    standfast: Standfast, vault: Made, look: Looking, tmp_path: Path
) -> None:
    """A backup does not fail for the want of an index; the first look makes it."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk takes root and tmpfs")
    try:
        cramped = Standfast(standfast.folder, standfast.env | {"TMPDIR": str(small)})
        maker = simple_tree([(b"f", 8, REG)])
        maker.file(8, b"hello")
        for number in range(100, 3000):
            maker.object(number, 20, incompressible(64, number))
        words = ("backup", "send", "--stdin", "x", vault.path)
        ran = cramped(*words, stdin=maker.done())
        assert "no index" in ran.err
        assert "room" in ran.err
    finally:
        subprocess.run(["umount", small], check=True)
    assert not list(vault.path.rglob("index.age"))
    standfast("backup", "verify", vault.path, "--level", "decrypt", "-i", vault.key)
    assert (
        "hello"
        == standfast("backup", "cat", vault.path, POINT, "f", "-i", vault.key).out
    )
    assert "f" in look("ls", POINT, "--names").out


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        ("user.a", "user.a"),
        ("system.posix_acl_access", "system.posix_acl_access"),
        ("plain", "user.plain"),
        ("com.apple.x", "user.com.apple.x"),
    ],
)
def test_names_of_extended_attributes(stored: str, wanted: str) -> None:
    assert wanted == linux_xattr(stored)
