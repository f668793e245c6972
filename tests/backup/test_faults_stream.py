"""A producer that fails, dies, or gives a stream that is not whole: no commit."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import ForkServer, Made, Pool, Standfast, incompressible, sample
from faults import assert_no_commit, error_line, signatures, with_zfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.system

END_RECORD = 312


@pytest.fixture(scope="module")
def dataset(pool: Pool) -> str:
    return pool.dataset("faulty", {"data": incompressible(300_000), "small": b"x"})


@pytest.fixture(scope="module")
def stream(pool: Pool, dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the real ``zfs send`` gives for the dataset."""
    place = tmp_path_factory.mktemp("streams") / "good"
    argv = ["zfs", "send", f"{dataset}@s1"]
    with place.open("wb") as file:
        subprocess.run(argv, stdout=file, check=True, timeout=60)
    assert 300_000 < place.stat().st_size, pool.name
    return place


def flipped(good: bytes, where: int) -> bytes:
    raw = bytearray(good)
    raw[where] ^= 0x10
    return bytes(raw)


# How a whole stream is spoiled, and a word of the complaint.
SPOILED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no END record": (lambda s: s[:-END_RECORD], "END"),
    "half an END record": (lambda s: s[: -END_RECORD // 2], ""),
    "cut in the data": (lambda s: s[: len(s) // 2], ""),
    "cut in the first record": (lambda s: s[:100], ""),
    "a flipped byte in the data": (lambda s: flipped(s, len(s) // 2), "checksum"),
    "a flipped byte in the checksum": (lambda s: flipped(s, len(s) - 280), "checksum"),
    "a trailing byte": (lambda s: s + b"\n", ""),
    "a second stream behind": (lambda s: s + s, ""),
}


@pytest.mark.parametrize("how", SPOILED)
def test_zfs_sends_a_spoiled_stream(
    forks: ForkServer,
    standfast: Standfast,
    vault: Made,
    dataset: str,
    stream: Path,
    how: str,
) -> None:
    """A zfs that ends well with a stream that is not whole commits nothing."""
    spoil, word = SPOILED[how]
    bad = standfast.folder / "bad"
    bad.write_bytes(spoil(stream.read_bytes()))
    fake = with_zfs(standfast, "send", f"cat {bad}")
    ran = fake("backup", "send", f"{dataset}@s1", vault.path, ok=1)
    assert word in error_line(ran)
    assert_no_commit(forks, standfast, vault)


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_stream_on_standard_input(
    forks: ForkServer, standfast: Standfast, vault: Made, stream: Path, how: str
) -> None:
    """A send stream on standard input is recognised, and must be whole."""
    spoil, word = SPOILED[how]
    bad = spoil(stream.read_bytes())
    ran = standfast("backup", "send", "--stdin", "x", vault.path, stdin=bad, ok=1)
    assert word in error_line(ran)
    assert_no_commit(forks, standfast, vault)


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_sample_on_standard_input(
    forks: ForkServer, standfast: Standfast, vault: Made, how: str
) -> None:
    """So must a stream that OpenZFS made."""
    spoil, word = SPOILED[how]
    good = sample("streams", "explore", "tiny-full.zfs").read_bytes()
    ran = standfast(
        "backup", "send", "--stdin", "x", vault.path, stdin=spoil(good), ok=1
    )
    assert word in error_line(ran)
    assert_no_commit(forks, standfast, vault)


FAILING = {
    "fails at once": ("", "exit 1", "zfs ended with status 1"),
    "fails midway": ("head -c 200000", "exit 1", "zfs ended with status 1"),
    "fails after a whole stream": ("cat", "exit 3", "zfs ended with status 3"),
    "is killed midway": ("head -c 200000", "kill -9 $$", "zfs was killed by signal 9"),
    "is killed at the end": ("cat", "kill -9 $$", "zfs was killed by signal 9"),
}


@pytest.mark.parametrize("how", FAILING)
def test_zfs_fails(
    forks: ForkServer,
    standfast: Standfast,
    vault: Made,
    dataset: str,
    stream: Path,
    how: str,
) -> None:
    """Whatever zfs gave before: its own words are the error, and nothing commits."""
    emit, end, ended = FAILING[how]
    body = f"{emit} {stream}\n" if emit else ""
    body += f'echo "cannot send: pool I/O is suspended" >&2\n{end}'
    fake = with_zfs(standfast, "send", body)
    ran = fake("backup", "send", f"{dataset}@s1", vault.path, ok=1)
    assert f"{ended}: cannot send: pool I/O is suspended" == error_line(ran)
    assert_no_commit(forks, standfast, vault)


def test_no_byte(
    forks: ForkServer, standfast: Standfast, vault: Made, dataset: str
) -> None:
    """A producer that ends well without a byte is a failure, not an empty backup."""
    fake = with_zfs(standfast, "send", "exit 0")
    for words in ((f"{dataset}@s1", vault.path), ("--stdin", "x", vault.path)):
        ran = fake("backup", "send", *words, ok=1)
        assert "nothing came" in error_line(ran)
    assert_no_commit(forks, standfast, vault)


def test_another_snapshot(
    forks: ForkServer, standfast: Standfast, vault: Made, pool: Pool, dataset: str
) -> None:
    """A whole stream of another snapshot than the one asked for is refused."""
    pool.zfs("snapshot", f"{dataset}@s2")
    fake = with_zfs(standfast, "send", f"exec $REAL send {dataset}@s2")
    ran = fake("backup", "send", f"{dataset}@s1", vault.path, ok=1)
    assert "guid" in error_line(ran)
    assert_no_commit(forks, standfast, vault)


def test_no_stream(
    forks: ForkServer, standfast: Standfast, vault: Made, dataset: str
) -> None:
    """Words where a stream should be are refused."""
    fake = with_zfs(standfast, "send", "echo usage: send [-R] SNAPSHOT")
    ran = fake("backup", "send", f"{dataset}@s1", vault.path, ok=1)
    assert "zfs send gave something that is no send stream" == error_line(ran)
    assert_no_commit(forks, standfast, vault)


def test_after_a_failure(
    standfast: Standfast, vault: Made, dataset: str, stream: Path
) -> None:
    """The next send goes on with what the failed one left; none of that is lost."""
    fake = with_zfs(standfast, "send", f"head -c 200000 {stream}; exit 1")
    fake("backup", "send", f"{dataset}@s1", vault.path, ok=1)
    (begun,) = vault.archives()
    sent = standfast("backup", "send", f"{dataset}@s1", vault.path, "--json").json()
    assert begun.name == sent["archive"]
    assert sent["reused_bytes"] > 0
    steps = standfast("backup", "clean", vault.path, "--json").json()["steps"]
    assert [] == steps
    assert 1 == len(vault.archives()) == len(signatures(vault))
    standfast("backup", "verify", vault.path)
