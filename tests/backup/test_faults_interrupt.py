"""Ctrl-C, SIGTERM and logging out: at once, and nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from conftest import (
    ForkServer,
    Made,
    Pool,
    Sshd,
    Standfast,
    incompressible,
    make_vault,
    wait_until,
)
from faults import (
    HIDE_CURSOR,
    SHOW_CURSOR,
    FarVault,
    Terminal,
    assert_no_commit,
    assert_no_survivors,
    end_promptly,
    far_vault,
    interrupt,
    marked,
    signatures,
    small_disk,
    trickle,
    with_zfs,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.system

# More than pipes, sockets and ssh's window hold: whoever writes it must wait.
DATA = incompressible(6_000_000)
SIGNALS = [signal.SIGINT, signal.SIGTERM]
FOREVER = 600


@pytest.fixture(scope="module")
def dataset(pool: Pool) -> str:
    return pool.dataset("interrupted", {"data": DATA})


@pytest.fixture(scope="module")
def stream(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("streams") / "good"
    with place.open("wb") as file:
        argv = ["zfs", "send", f"{dataset}@s1"]
        subprocess.run(argv, stdout=file, check=True, timeout=60)
    return place


@pytest.fixture
def user(standfast: Standfast) -> Standfast:
    """The command with a mark, so that what it leaves running is found."""
    return marked(standfast)


@pytest.fixture
def far(user: Standfast, plain_sshd: Sshd) -> Iterator[FarVault]:
    with far_vault(user, plain_sshd, "256k") as far:
        yield far


@pytest.fixture
def slow_zfs(user: Standfast, stream: Path) -> Standfast:
    """A zfs that sends a part of the stream, and then nothing more for long."""
    text = trickle(stream, first=300_000, pause=FOREVER, then=0)
    return with_zfs(user, "send", text)


@contextlib.contextmanager
def on_terminal(
    user: Standfast, word: bytes, *words: object, stdin: int | None = None
) -> Iterator[Terminal]:
    """Start on a terminal, and go on when the live line says the word."""
    terminal = Terminal(user, "backup", *words, stdin=stdin)
    try:
        terminal.wait_for(word)
        yield terminal
    finally:
        terminal.close()


def assert_terminal_restored(terminal: Terminal) -> None:
    """The cursor, hidden for the live line, is back, and no mode has changed."""
    output = terminal.settle()
    assert HIDE_CURSOR in output
    assert output.rindex(HIDE_CURSOR) < output.rindex(SHOW_CURSOR)
    assert terminal.before == terminal.modes()
    assert b"standfast: error: interrupted" in output
    assert b"Traceback" not in output


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGINT", "SIGTERM"])
def test_sending_from_a_slow_zfs(
    forks: ForkServer, slow_zfs: Standfast, vault: Made, dataset: str, how: str
) -> None:
    """With the live line on a terminal: status 130, no zfs, no commit, all restored."""
    words = ("send", f"{dataset}@s1", vault.path)
    with on_terminal(slow_zfs, b"sending", *words) as terminal:
        if how == "Ctrl-C":
            code = end_promptly(terminal.process, lambda: terminal.type(b"\x03"))
        else:
            code = interrupt(terminal.process, signal.Signals[how])
        assert 130 == code
        assert_no_survivors(slow_zfs)
        assert_terminal_restored(terminal)
    assert_no_commit(forks, slow_zfs, vault)


@pytest.mark.parametrize("number", SIGNALS)
def test_sending_from_a_pipe_kept_open(
    forks: ForkServer, user: Standfast, vault: Made, number: int
) -> None:
    """A producer that has paused does not keep the sender from ending."""
    words = ("backup", "send", "--stdin", "x", vault.path)
    with user.start(*words, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(DATA[:200_000])
        process.stdin.flush()
        wait_until(lambda: list(vault.path.rglob("00000001.*")), "segments")
        assert 130 == interrupt(process, number)
        assert process.stderr is not None
        assert b"standfast: error: interrupted\n" == process.stderr.read()
    assert_no_survivors(user)
    assert_no_commit(forks, user, vault)


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_uploading_into_a_stalled_link(
    user: Standfast, far: FarVault, how: str
) -> None:
    """A far end that takes nothing more does not keep us, and no ssh stays."""
    source = user.folder / "source"
    source.write_bytes(DATA)
    far.link.stall_after(1_000_000)
    words = ("send", "--stdin", "x", far.made.address)
    with (
        source.open("rb") as file,
        on_terminal(far.client, b"sending", *words, stdin=file.fileno()) as terminal,
    ):
        wait_until(lambda: far.link.stalled, "the link to stall")
        if how == "Ctrl-C":
            code = end_promptly(terminal.process, lambda: terminal.type(b"\x03"))
        else:
            code = interrupt(terminal.process, signal.SIGTERM)
        assert 130 == code
        assert_no_survivors(far.client)
        assert_terminal_restored(terminal)
    assert [] == signatures(far.made)


def start_sending(far: FarVault, *options: object) -> subprocess.Popen[bytes]:
    source = far.client.folder / "source"
    source.write_bytes(DATA)
    words = ("backup", "send", "--stdin", "x", far.made.address, *options)
    with source.open("rb") as file:
        return far.client.start(*words, stdin=file)


def test_connecting_again_to_a_stalled_host(far: FarVault) -> None:
    """Nor does a host that drops the link and then answers no connection."""
    far.link.cut_after(1_000_000, then="stall")
    with start_sending(far) as process:
        wait_until(lambda: far.link.waiting, "a connection that hangs")
        assert 130 == interrupt(process)
    assert_no_survivors(far.client)
    assert [] == signatures(far.made)


def test_waiting_to_try_again(far: FarVault) -> None:
    """Nor does the pause before the next try, which grows to half a minute."""
    far.link.cut_after(1_000_000, then="refuse")
    with start_sending(far) as process:
        assert process.stderr is not None
        # Four tries are over: the pause before the fifth is two seconds or more.
        while b"; try 4" not in process.stderr.readline():
            assert process.poll() is None
        assert 130 == interrupt(process)
    assert_no_survivors(far.client)


def test_held_back_by_a_rate_limit(user: Standfast, vault: Made) -> None:
    """Nor does --bwlimit, which may hold a write back for minutes."""
    source = user.folder / "source"
    source.write_bytes(DATA)
    words = ("backup", "send", "--stdin", "x", vault.path, "--bwlimit", "1k")
    with source.open("rb") as file, user.start(*words, stdin=file) as process:
        wait_until(lambda: list(vault.path.rglob(".part-*")), "a write")
        assert 130 == interrupt(process)
    assert [] == signatures(vault)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_verifying_over_a_stalled_link(far: FarVault, part: float) -> None:
    """Wherever the far end stops to answer."""
    words = ("backup", "send", "--stdin", "x", far.made.address)
    far.client(*words, stdin=DATA[:300_000])
    start = far.link.total
    far.client("backup", "verify", far.made.address)
    far.link.stall_after(int((far.link.total - start) * part))
    with far.client.start("backup", "verify", far.made.address) as process:
        wait_until(lambda: far.link.stalled, "the link to stall")
        assert 130 == interrupt(process)
    assert_no_survivors(far.client)


def test_restoring_over_a_stalled_link(far: FarVault) -> None:
    """Half a file is removed."""
    far.client("backup", "send", "--stdin", "x", far.made.address, stdin=DATA)
    folder = far.client.folder
    before = sorted(folder.iterdir())
    far.link.stall_after(2_000_000)
    words = ("restore", far.made.address, "x", "-o", folder / "out")
    with on_terminal(far.client, b"restoring", *words, "-i", far.made.key) as terminal:
        wait_until(lambda: far.link.stalled, "the link to stall")
        code = end_promptly(terminal.process, lambda: terminal.type(b"\x03"))
        assert 130 == code
        assert_no_survivors(far.client)
        assert_terminal_restored(terminal)
    assert before == sorted(folder.iterdir())


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_restoring_into_a_slow_zfs_receive(
    user: Standfast, vault: Made, pool: Pool, dataset: str, how: str
) -> None:
    """A receiver that takes nothing is ended, and no dataset is left."""
    user("backup", "send", f"{dataset}@s1", vault.path)
    pause = user.folder / "pause"
    pause.write_bytes(b"")
    text = trickle(pause, first=0, pause=FOREVER, then=0)
    slow = with_zfs(user, "receive", text)
    target = f"{pool.name}/interrupted-{how}"
    words = ("restore", vault.path, f"{dataset}@s1", target, "-i", vault.key)
    with on_terminal(slow, b"restoring", *words) as terminal:
        time.sleep(0.3)
        if how == "Ctrl-C":
            code = end_promptly(terminal.process, lambda: terminal.type(b"\x03"))
        else:
            code = interrupt(terminal.process, signal.SIGTERM)
        assert 130 == code
        assert_no_survivors(slow)
        assert_terminal_restored(terminal)
    assert target not in pool.zfs("list", "-H", "-o", "name").split()


def test_twice(slow_zfs: Standfast, vault: Made, dataset: str) -> None:
    """The second Ctrl-C of an impatient person spoils nothing."""
    words = ("send", f"{dataset}@s1", vault.path)
    with on_terminal(slow_zfs, b"sending", *words) as terminal:

        def hammer() -> None:
            for _ in range(3):
                terminal.type(b"\x03")
                time.sleep(0.01)

        assert 130 == end_promptly(terminal.process, hammer)
        assert_no_survivors(slow_zfs)
        assert_terminal_restored(terminal)


def finishing_zfs(user: Standfast, stream: Path) -> Standfast:
    """A zfs that sends all, with a pause in the middle."""
    return with_zfs(user, "send", trickle(stream, first=300_000, pause=1, then=0.2))


@pytest.mark.parametrize("where", ["directory", "ssh"])
def test_logging_out(
    user: Standfast,
    plain_sshd: Sshd,
    stream: Path,
    dataset: str,
    tmp_path: Path,
    where: str,
) -> None:
    """A terminal that is closed does not end the send: it commits, with status 0."""
    client, address, place = user, "", tmp_path / "vault"
    if where == "ssh":
        client = plain_sshd.client(user)
        place = plain_sshd.home / f"logout-{os.getpid()}"
        address = plain_sshd.address(place.name)
    made = make_vault(client, tmp_path / "vault", address=address)
    sender = finishing_zfs(client, stream)
    words = ("send", f"{dataset}@s1", made.address)
    with on_terminal(sender, b"sending", *words) as terminal:
        terminal.hang_up()
        assert 0 == terminal.process.wait(timeout=20)
    listed = client("backup", "list", made.address, "--json").json()
    assert ["committed"] == [a["state"] for a in listed["archives"]]
    client("backup", "verify", made.address)
    assert_no_survivors(sender)
    assert 1 == len(list((place / "archives").rglob("SHA256SUMS.minisig")))


def test_sighup(user: Standfast, vault: Made, stream: Path, dataset: str) -> None:
    """Nor does SIGHUP to the whole process group, as some shells send it."""
    sender = finishing_zfs(user, stream)
    words = ("backup", "send", f"{dataset}@s1", vault.path)
    with sender.start(*words, start_new_session=True) as process:
        wait_until(lambda: list(vault.path.rglob("00000001.*")), "segments")
        os.killpg(process.pid, signal.SIGHUP)
        assert 0 == process.wait(timeout=20)
    user("backup", "verify", vault.path)
    assert 1 == len(signatures(vault))


@pytest.mark.parametrize("producer", ["zfs", "pipe"])
def test_store_fails_while_the_producer_pauses(
    user: Standfast, stream: Path, dataset: str, tmp_path: Path, producer: str
) -> None:
    """A full disk ends the send at once, though the producer would go on for long."""
    with small_disk(tmp_path / "disk", "200k") as disk:
        made = make_vault(user, disk / "vault", "--segment-size", "64k")
        sender, words, stdin = user, ["--stdin", "x"], subprocess.PIPE
        if producer == "zfs":
            text = trickle(stream, first=300_000, pause=FOREVER, then=0)
            sender = with_zfs(user, "send", text)
            words, stdin = [f"{dataset}@s1"], subprocess.DEVNULL
        with sender.start("backup", "send", *words, made.path, stdin=stdin) as process:
            if process.stdin is not None:
                # Four segments and a half: the reader waits for the rest of the fifth.
                with contextlib.suppress(BrokenPipeError):
                    os.write(process.stdin.fileno(), DATA[:300_000])
            try:
                code = process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                pytest.fail("the send waits for its producer")
            assert process.stderr is not None
            assert b"no space left on device" in process.stderr.read()
        assert 1 == code
        assert_no_survivors(sender)
        assert [] == signatures(made)
