"""Small files out of a tar stream: any stock tar's, and a hostile one's."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tarfile
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from conftest import need
from hypothesis import given
from hypothesis import strategies as st

from standfast.backup.stores.ssh import SshStore
from standfast.backup.stores.tar_stream import BLOCK, TarReader
from standfast.errors import StoreError
from standfast.host.local import LocalHost
from standfast.pace import Unlimited
from standfast.units import MIB

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from standfast.host.process import Process

NAMES = st.from_regex(r"[a-z0-9]{1,8}(/[a-zA-Z0-9.]{1,30}){0,4}", fullmatch=True)
FILES = st.dictionaries(NAMES, st.binary(max_size=1_500), max_size=6)
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def reader(data: bytes, step: int = 700) -> TarReader:
    source = io.BytesIO(data)
    return TarReader(lambda count: source.read(min(count, step)))


def archive(files: dict[str, bytes], form: int, **attributes: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@given(FILES, st.sampled_from(FORMATS), st.integers(1, 2_000))
def test_every_form(files: dict[str, bytes], form: int, step: int) -> None:
    """What tarfile writes comes out, in any pieces, and what follows is kept."""
    tar = reader(archive(files, form) + b"standfast-done\n", step)
    assert files == dict(tar.members(set(files), 2_000))
    assert tar.rest().endswith(b"\0standfast-done\n")


@given(FILES, st.integers(0, 1_500))
def test_only_what_is_wanted(files: dict[str, bytes], limit: int) -> None:
    """The rest, and what is too large, is passed over."""
    wanted = set(sorted(files)[::2])
    expected = {n: d for n, d in files.items() if n in wanted and len(d) <= limit}
    found = reader(archive(files, tarfile.USTAR_FORMAT)).members(wanted, limit)
    assert expected == dict(found)


@given(FILES, st.data())
def test_cut(files: dict[str, bytes], data: st.DataObject) -> None:
    """A stream that ends before its own end is broken, wherever it is cut."""
    whole = archive(files, tarfile.USTAR_FORMAT)
    end = sum(BLOCK + len(d) + -len(d) % BLOCK for d in files.values())
    cut = data.draw(st.integers(0, end + BLOCK - 1))
    with pytest.raises(StoreError, match="ends too early"):
        list(reader(whole[:cut]).members(set(files), 2_000))


@given(st.binary(min_size=BLOCK, max_size=4 * BLOCK))
def test_anything(data: bytes) -> None:
    """Other bytes are an error, never a crash."""
    with contextlib.suppress(StoreError):
        list(reader(data).members({""}, 100))


def test_stock_tar(tmp_path: Path) -> None:
    """What this system's tar writes, with an owner and times beyond plain headers."""
    need("tar")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "SHA256SUMS").write_bytes(b"x" * 700)
    os.utime(tmp_path / "folder" / "SHA256SUMS", (-5.5, 9_000_000_000.25))
    for form in ("gnu", "posix", "ustar", "v7"):
        words = ["tar", f"--format={form}", "-cf", "-", "folder/SHA256SUMS"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, check=False)
        if done.returncode == 0:
            found = reader(done.stdout).members({"folder/SHA256SUMS"}, 1_000)
            assert {"folder/SHA256SUMS": b"x" * 700} == dict(found)


def test_a_link_is_no_file() -> None:
    """Nor are folders, pipes and devices, though they carry a wanted name."""
    for kind in (tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        data = archive({"name": b""}, tarfile.USTAR_FORMAT, type=kind)
        assert {} == dict(reader(data).members({"name"}, 100))


class FarShell(LocalHost):
    """This machine with one program of its own in front of PATH."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def spawn(
        self, argv: Sequence[str], *, stdin: bool = False, stdin_fd: int | None = None
    ) -> Process:
        path = f"PATH={self._folder}:{os.environ['PATH']}"
        return super().spawn(
            ["/usr/bin/env", path, *argv], stdin=stdin, stdin_fd=stdin_fd
        )


def hostile_tar(folder: Path, text: str) -> None:
    program = folder / "tar"
    program.write_text(f"#!{sys.executable} -IS\n{text}\n")
    program.chmod(0o755)


# One member after the other; {head} makes a header that claims what it likes.
LIES = {
    "an endless extended header": (
        "w(head(b'x', 8**11 - 1))\nfor _ in range(3000): w(bytes(65536))"
    ),
    "an endless long name": (
        "w(head(b'L', 8**11 - 1))\nfor _ in range(3000): w(bytes(65536))"
    ),
    "a huge file": (
        "w(head(b'0', 150 << 20))\n"
        "for _ in range(2400): w(bytes(65536))\nw(bytes(1024))"
    ),
    "one file over and over": (
        "for _ in range(150): w(head(b'0', 1 << 20) + bytes(1 << 20))\nw(bytes(1024))"
    ),
    "rubbish": "for _ in range(3000): w(b'\\1' * 65536)",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_far_end_cannot_fill_our_memory(tmp_path: Path, lie: str) -> None:
    """Whatever its tar claims and sends, little of it is ever held here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    head = (
        "import sys\nw = sys.stdout.buffer.write\n"
        "def head(kind, size):\n"
        "    h = b'name'.ljust(100, b'\\0') + b'0000644\\0' + b'0000000\\0' * 2\n"
        "    h += b'%011o\\0' % size + b'%011o\\0' % 0 + b' ' * 8 + kind\n"
        "    h = h.ljust(512, b'\\0')\n"
        "    return h[:148] + b'%06o\\0 ' % sum(h) + h[156:]\n"
    )
    hostile_tar(folder, head + LIES[lie])
    root = tmp_path / "vault"
    root.mkdir()
    store = SshStore(FarShell(folder), str(root), "ssh://hostile", Unlimited())
    tracemalloc.start()
    try:
        try:
            found = store.get_small(["name"], 2 * MIB)
        except StoreError:
            found = {}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        store.close()
    assert peak < 16 * MIB, f"{peak / MIB:.0f} MiB"
    assert {} == found or {"name": bytes(MIB)} == found


@pytest.mark.timeout(120)
def test_many_names_and_many_answers(tmp_path: Path) -> None:
    """More names out and more answers back than all pipes hold do not lock up."""
    need("tar", "sha256sum")
    root = tmp_path / "vault"
    root.mkdir()
    names = [f"{number:05}" + "x" * 80 for number in range(8_000)]
    for name in names:
        (root / name).write_bytes(name.encode())
    store = SshStore(LocalHost(), str(root), "ssh://here", Unlimited())
    absent = [f"absent-{number}" for number in range(20_000)]
    found = store.get_small([*names, *absent], 1_000)
    assert {name: name.encode() for name in names} == found
    assert set(names) == {name for name, _ in store.digests([*names, *absent])}
    store.close()
