"""Faults made to order: links that break, terminals, slow programs, full disks."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pty
import random
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ForkServer, Made, Ran, Sshd, Standfast, make_vault, wait_until

from standfast.backup.stores.retry import RetryingStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from standfast.backup.stores import Store

SHOW_CURSOR = b"\x1b[?25h"
HIDE_CURSOR = b"\x1b[?25l"
# What the manual promises of Ctrl-C.
PROMPT_SECONDS = 2.0
MARK = "STANDFAST_TEST_MARK"


def marked(standfast: Standfast) -> Standfast:
    """The command with a mark in its environment that its children inherit."""
    mark = {MARK: os.urandom(8).hex()}
    return Standfast(standfast.folder, standfast.env | mark)


def survivors(standfast: Standfast) -> list[str]:
    """Return the command lines of living processes that carry the mark."""
    mark = f"{MARK}={standfast.env[MARK]}".encode()
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def assert_no_survivors(standfast: Standfast) -> None:
    """Children that were killed may take a moment to be gone."""
    deadline = time.monotonic() + 1
    while (left := survivors(standfast)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [] == left


def signatures(made: Made) -> list[Path]:
    """Return the archives' signatures: what makes them backups."""
    return sorted((made.path / "archives").rglob("SHA256SUMS.minisig"))


def states(forks: ForkServer, standfast: Standfast, made: Made) -> list[str]:
    """Return the standing of every archive that is listed."""
    listed = forks.run(standfast, "backup", "list", made.address, "--json").json()
    return sorted(archive["state"] for archive in listed["archives"])


def assert_no_commit(forks: ForkServer, standfast: Standfast, made: Made) -> None:
    """Nothing is a backup, nothing is listed as one, and the vault verifies."""
    assert [] == signatures(made)
    assert "committed" not in states(forks, standfast, made)
    forks.run(standfast, "backup", "verify", made.address)


def error_line(ran: Ran) -> str:
    """Return the one line that says what went wrong."""
    lines = [ln for ln in ran.err.splitlines() if ln.startswith("standfast: error: ")]
    assert 1 == len(lines), ran
    assert "Traceback" not in ran.err
    return lines[0].removeprefix("standfast: error: ")


def with_zfs(standfast: Standfast, verb: str, body: str) -> Standfast:
    """The command with a zfs in front of PATH whose one verb is a shell text.

    Everything else goes to the real zfs, which the text knows as ``$REAL``.
    """
    real = shutil.which("zfs")
    folder = standfast.folder / f"bin-{os.urandom(4).hex()}"
    folder.mkdir()
    fake = folder / "zfs"
    fake.write_text(
        f"#!/bin/sh\nREAL={real}\n"
        f'if [ "$1" = {verb} ] && [ "$2" != -n ]; then\n{body}\nexit\nfi\n'
        'exec "$REAL" "$@"\n'
    )
    fake.chmod(0o755)
    path = f"{folder}:{standfast.env['PATH']}"
    return Standfast(standfast.folder, standfast.env | {"PATH": path})


def trickle(stream: Path, *, first: int, pause: float, then: float) -> str:
    """Shell text that emits a file in one process: some, a pause, the rest, a pause."""
    code = (
        "import sys,time,shutil\n"
        f"f=open({str(stream)!r},'rb');o=sys.stdout.buffer\n"
        f"o.write(f.read({first}));o.flush();time.sleep({pause})\n"
        f"shutil.copyfileobj(f,o);o.flush();time.sleep({then})\n"
    )
    place = stream.with_name(f"trickle-{os.urandom(4).hex()}.py")
    place.write_text(code)
    return f"exec {sys.executable} -IS {place}"


class SourceDiedError(OSError):
    """What feeds a store has failed in the middle."""


class DyingPace:
    """Fails when half of the bytes have been taken.

    Args:
        total: bytes to come.
        die: what to do at that point; whatever it raises ends the transfer.
    """

    def __init__(self, total: int, die: Callable[[], None]) -> None:
        self._left = total // 2
        self._die = die

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            self._die()


def raise_died() -> None:
    raise SourceDiedError("the source died")


class FakeClock:
    """Time passes when somebody sleeps."""

    def __init__(self, start: float = 0.0) -> None:
        self.time = start

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


def retrying(inner: Store, told: list[str], patience: float = 120.0) -> RetryingStore:
    return RetryingStore(
        inner,
        clock=FakeClock(),
        chance=random.Random(1),
        patience=patience,
        tell=told.append,
    )


class Link:
    """A TCP hop to a port of this machine that fails as it is told.

    Attributes:
        port: where it listens.
        carried: bytes that came from the client so far.
        returned: bytes that came from the server so far.
        cuts: how often a connection was cut.
        waiting: connections that were taken and never answered.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.carried = 0
        self.returned = 0
        self._cut_at: int | None = None
        self._stall_at: int | None = None
        self._mute_at: int | None = None
        self._after_cut = "pass"
        self._mode = "pass"
        self.cuts = 0
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.waiting = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, count: int, *, then: str = "pass") -> None:
        """Reset the connection after ``count`` more bytes in both directions.

        ``then`` is what becomes of later connections: pass, refuse or stall.
        """
        self._cut_at = self.total + count
        self._after_cut = then

    @property
    def total(self) -> int:
        return self.carried + self.returned

    def stall_after(self, count: int) -> None:
        """Forward nothing after ``count`` more bytes; new connections hang too."""
        self._stall_at = self.total + count

    def mute_after(self, count: int) -> None:
        """Lose what the server answers after ``count`` more bytes, until ``cut``."""
        self._mute_at = self.total + count

    def cut(self) -> None:
        """Reset what is open now; later connections pass."""
        self._mute_at = None
        self.cuts += 1
        self._drop()

    @property
    def stalled(self) -> bool:
        return self._mode == "stall"

    def close(self) -> None:
        """Stop listening and drop what is open."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._drop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            with self._lock:
                self._sockets.append(client)
            if self._mode == "stall":
                self.waiting += 1
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            with self._lock:
                self._sockets.append(server)
            for pair in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:  # noqa: FBT001
        with contextlib.suppress(OSError):
            while data := source.recv(16 * 1024):
                self._count(len(data), up=up)
                if self._mode == "stall":
                    return
                if up or self._mute_at is None or self.total < self._mute_at:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _count(self, count: int, *, up: bool) -> None:
        with self._lock:
            self.carried += count if up else 0
            self.returned += 0 if up else count
            cut = self._cut_at is not None and self.total >= self._cut_at
            if cut:
                self._cut_at = None
                self._mode = self._after_cut
                self.cuts += 1
                if self._mode == "refuse":
                    self._server.shutdown(socket.SHUT_RDWR)
                    self._server.close()
            if self._stall_at is not None and self.total >= self._stall_at:
                self._mode = "stall"
        if cut:
            self._drop()

    def _drop(self) -> None:
        with self._lock:
            for each in self._sockets:
                _reset(each)
            self._sockets.clear()


def _reset(each: socket.socket) -> None:
    """Close with a RST, as a dead router does."""
    with contextlib.suppress(OSError):
        linger = b"\1\0\0\0\0\0\0\0"
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        each.shutdown(socket.SHUT_RDWR)
    each.close()


@dataclasses.dataclass
class FarVault:
    """A vault over ssh, through a link that can fail."""

    client: Standfast
    made: Made
    link: Link


@contextlib.contextmanager
def far_vault(standfast: Standfast, sshd: Sshd, size: str) -> Iterator[FarVault]:
    """A vault over ssh whose link is good until told otherwise.

    Its path is where it lies on the far machine, which is this one.
    """
    link = Link(sshd.port)
    client = through(standfast, sshd, link)
    place = sshd.home / f"vault-{os.urandom(4).hex()}"
    address = f"ssh://{sshd.user}@127.0.0.1:{link.port}{place}"
    local = standfast.folder / "far"
    made = make_vault(client, local, "--segment-size", size, address=address)
    try:
        yield FarVault(client, dataclasses.replace(made, path=place), link)
    finally:
        link.close()


def through(standfast: Standfast, sshd: Sshd, link: Link) -> Standfast:
    """The command with an ssh that knows the host key at the link's port."""
    folder = sshd.bin.parent
    place = standfast.folder / "link-ssh"
    place.mkdir(exist_ok=True)
    public = (folder / "host.pub").read_text()
    (place / "known").write_text(f"[127.0.0.1]:{link.port} {public}")
    (place / "config").write_text(
        f"Host *\n IdentityFile {folder / 'client'}\n IdentitiesOnly yes\n"
        f" UserKnownHostsFile {place / 'known'}\n StrictHostKeyChecking yes\n"
    )
    wrapper = place / "ssh"
    real = shutil.which("ssh")
    wrapper.write_text(f'#!/bin/sh\nexec {real} -F {place / "config"} "$@"\n')
    wrapper.chmod(0o755)
    path = f"{place}:{standfast.env['PATH']}"
    return Standfast(standfast.folder, standfast.env | {"PATH": path})


class Terminal:
    """A command on a terminal of its own, as its session's leader."""

    def __init__(
        self, standfast: Standfast, *words: object, stdin: int | None = None
    ) -> None:
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.output = bytearray()
        slave = self.slave

        def take_terminal() -> None:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            standfast.argv(*words),
            stdin=slave if stdin is None else stdin,
            stdout=slave,
            stderr=slave,
            env=standfast.env | {"TERM": "xterm", "COLUMNS": "100"},
            cwd=standfast.folder,
            start_new_session=True,
            preexec_fn=take_terminal,  # noqa: PLW1509 - one ioctl, no lock
            pass_fds=[slave],
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: bytes, seconds: float = 20) -> None:
        wait_until(lambda: text in self.output, f"{text!r} on the terminal", seconds)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def hang_up(self) -> None:
        """Close the terminal's window."""
        os.close(self.slave)
        self.slave = -1
        os.close(self.master)
        self.master = -1

    def settle(self) -> bytes:
        """Return all that was printed, after the process has ended."""
        with contextlib.suppress(OSError):
            termios.tcdrain(self.slave)
        time.sleep(0.05)
        return bytes(self.output)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for fd in (self.slave, self.master):
            if fd >= 0:
                os.close(fd)
        self._reader.join(timeout=5)

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while part := os.read(self.master, 65536):
                self.output += part


def end_promptly(process: subprocess.Popen[bytes], act: Callable[[], None]) -> int:
    """Do what shall end a process; return its status, or fail if it takes long."""
    start = time.monotonic()
    act()
    try:
        code = process.wait(timeout=PROMPT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        pytest.fail(f"still alive {time.monotonic() - start:.1f} s after {act}")
    return code


def interrupt(process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> int:
    """Send a signal; return the exit status that follows promptly."""
    return end_promptly(process, lambda: process.send_signal(number))


@contextlib.contextmanager
def small_disk(place: Path, size: str, owner: str = "root") -> Iterator[Path]:
    """A tmpfs of that size at ``place``."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    place.mkdir()
    options = f"size={size},mode=755"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(place)],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode().strip()}")
    try:
        shutil.chown(place, owner)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    words = ["mount", "-o", f"remount,{options}", str(place)]
    subprocess.run(words, check=True, capture_output=True)


def parts(place: Path) -> list[str]:
    """Return the names of temporary objects below a folder."""
    return sorted(path.name for path in place.rglob(".part-*"))
