"""Throw-away things for the demo and the measurements: folder, ZFS pool, sshd.

Each is a context manager that takes away what it made, whatever ends it, and
raises Unavailable, with the reason, where the machine does not have what it takes.
Assumes a POSIX system; the ZFS daemon is started only where no ZFS answers.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TRY_SECONDS = 20
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


class Unavailable(Exception):  # noqa: N818 - it is no error, the caller goes on
    """The machine lacks something; the text says what."""


@dataclass(frozen=True)
class Loopback:
    """An sshd on 127.0.0.1.

    Attributes:
        user: who logs in.
        port: where it listens.
        home: a folder that user may write to.
        bin: put it first in PATH: its ``ssh`` reads a configuration with the
            throw-away key, as a user's ~/.ssh/config would.
    """

    user: str
    port: int
    home: Path
    bin: Path

    def address(self, name: str) -> str:
        """Return the ssh:// address of a folder in the home."""
        return f"ssh://{self.user}@127.0.0.1:{self.port}{self.home / name}"


def stop_on_signals() -> None:
    """Make the first Ctrl-C, hang-up or TERM clean up, and the next ones wait."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(_number: int, _frame: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, stop)


@contextlib.contextmanager
def folder(prefix: str, parent: str | None = None) -> Iterator[Path]:
    """Make a temporary folder that other users may pass through."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent)).resolve()
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def pool(place: Path, size: int) -> Iterator[str]:
    """Make a ZFS pool on a file, mounted at ``place``/mnt; yield its name."""
    for program in ("zfs", "zpool"):
        program_path(program)
    if os.geteuid() != 0:
        raise Unavailable("making a pool needs root")
    name = f"standfast{os.getpid()}"
    disk = place / "disk"
    with _zfs(), disk.open("wb") as file:
        file.truncate(size)
        mount = f"mountpoint={place / 'mnt'}"
        done = quiet("zpool", "create", "-O", mount, name, str(disk))
        if done.returncode != 0:
            raise Unavailable(f"zpool create: {done.stderr.strip()}")
        try:
            yield name
        finally:
            # A receiver that is being killed may hold it a moment longer.
            destroyed = ["zpool", "destroy", "-f", name]
            # On a busy machine zfs-fuse lets go of a mount half a minute later.
            _wait(lambda: quiet(*destroyed).returncode == 0, "zpool destroy", 90)


@contextlib.contextmanager
def _zfs() -> Iterator[None]:
    """Have a ZFS that answers: the system's, or zfs-fuse started for the while."""
    # Another run's daemon may just be starting or ending; two cannot live at once.
    _wait(lambda: _zfs_answers() or not _runs("zfs-fuse"), "the other zfs-fuse")
    if _zfs_answers():
        yield
        return
    daemon = program_path("zfs-fuse")
    if not Path("/dev/fuse").exists():
        raise Unavailable("no ZFS answers, and zfs-fuse needs /dev/fuse")
    argv = [daemon, "--no-daemon", "--no-kstat-mount"]
    remembered: set[str] = set()
    # If somebody else has made a pool meanwhile, the daemon is theirs as well.
    with _daemon(argv, stop=lambda: _pools() <= remembered):
        _wait(_zfs_answers, "zfs-fuse to answer")
        remembered |= _pools()
        yield


def _zfs_answers() -> bool:
    return quiet("zpool", "list").returncode == 0


def _runs(program: str) -> bool:
    return quiet("pgrep", "-x", program).returncode == 0


def _pools() -> set[str]:
    return set(quiet("zpool", "list", "-H", "-o", "name").stdout.split())


@contextlib.contextmanager
def loopback(place: Path) -> Iterator[Loopback]:
    """Start an sshd, with a login of its own where we may make one."""
    sshd = program_path("sshd")
    program_path("ssh")
    for name in ("host", "client"):
        path = str(place / name)
        must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
    home = place / "far"
    home.mkdir()
    with _login(home) as user:
        reached = Loopback(user, _free_port(), home, place / "bin")
        _configure(place, reached)
        argv = [sshd, "-D", "-e", "-f", str(place / "sshd_config")]
        with _daemon(argv):
            _wait(lambda: _listens(reached.port), "sshd to listen")
            _try_login(reached)
            yield reached


@contextlib.contextmanager
def _login(home: Path) -> Iterator[str]:
    if os.geteuid() != 0:
        yield pwd.getpwuid(os.geteuid()).pw_name
        return
    user = f"standfast-{os.getpid()}"
    must("useradd", "-M", "-N", "-p", "*", "-d", str(home), "-s", "/bin/sh", user)
    try:
        shutil.chown(home, user)
        yield user
    finally:
        quiet("pkill", "-KILL", "-u", user)
        _wait(lambda: quiet("pgrep", "-u", user).returncode != 0, "its processes")
        quiet("userdel", user)


def _configure(place: Path, reached: Loopback) -> None:
    (place / "sshd_config").write_text(
        f"Port {reached.port}\nListenAddress 127.0.0.1\nHostKey {place / 'host'}\n"
        f"AuthorizedKeysFile {place / 'client.pub'}\nAllowUsers {reached.user}\n"
        "UsePAM no\nStrictModes no\nPasswordAuthentication no\nPidFile none\n"
        "PrintMotd no\nMaxStartups 50\n"
    )
    key = (place / "host.pub").read_text()
    (place / "known_hosts").write_text(f"[127.0.0.1]:{reached.port} {key}")
    (place / "ssh_config").write_text(
        f"Host *\n IdentityFile {place / 'client'}\n IdentitiesOnly yes\n"
        f" UserKnownHostsFile {place / 'known_hosts'}\n StrictHostKeyChecking yes\n"
        " BatchMode yes\n"
    )
    reached.bin.mkdir()
    wrapper = reached.bin / "ssh"
    ssh = program_path("ssh")
    wrapper.write_text(f'#!/bin/sh\nexec {ssh} -F {place / "ssh_config"} "$@"\n')
    wrapper.chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)


def _try_login(reached: Loopback) -> None:
    where = f"{reached.user}@127.0.0.1"
    ssh = str(reached.bin / "ssh")
    done = quiet(ssh, "-p", str(reached.port), where, "true")
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["the login failed"]
        raise Unavailable(f"{reached.user} cannot log in by ssh: {last[0]}")


@contextlib.contextmanager
def _daemon(argv: list[str], stop: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Run a program beside us, out of reach of the terminal's Ctrl-C."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        if stop():
            process.terminate()
            process.wait(timeout=TRY_SECONDS)
        else:
            # It is not ours alone any more; the interpreter must not complain.
            process.returncode = 0


def program_path(name: str) -> str:
    """Return where a program is, also where users do not look.

    Raises:
        Unavailable: it is not installed.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN])
    found = shutil.which(name, path=path)
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


def must(*argv: str) -> str:
    """Run a program and return its output.

    Raises:
        Unavailable: it is missing or failed.
    """
    done = quiet(program_path(argv[0]), *argv[1:])
    if done.returncode != 0:
        raise Unavailable(f"{argv[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def quiet(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program and return what it said, whatever that is."""
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _wait(ready: Callable[[], bool], what: str, seconds: float = TRY_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise Unavailable(f"waited {seconds:g} s for {what}")
        time.sleep(0.05)
