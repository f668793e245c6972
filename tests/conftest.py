"""Real things for the tests: a ZFS pool, an sshd, vaults, and the command itself."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from objectstore import ObjectServer

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT.parent / "shared" / "data"
COMMAND = [sys.executable, "-m", "standfast"]

hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=60
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def need(*programs: str) -> None:
    """Skip, with the reason, where a program is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


# In CI everything that can be installed is; only these may be missing there.
MAY_SKIP = (
    "beside this checkout",
    "beside the checkout",
    "bcrypt is installed",
    # CI runs that as well, as a step of its own.
    "make test-openzfs",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,  # noqa: ARG001 - the hook's own signature
    call: pytest.CallInfo[None],  # noqa: ARG001
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a skip a failure in CI: what is not run there is tested nowhere."""
    report = yield
    reason = str(report.longrepr)
    if (
        report.skipped
        and os.environ.get("CI")
        and not any(m in reason for m in MAY_SKIP)
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {reason}"
    return report


def wait_until(ready: Callable[[], object], what: str, seconds: float = 20.0) -> None:
    """Poll until something holds, or fail with what was waited for."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)


@dataclasses.dataclass
class Ran:
    """What a run of the command left."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclasses.dataclass
class Standfast:
    """The real command with a state folder and an environment of its own.

    With ``forks`` its runs are forks of a warm interpreter: where a processor is
    emulated, starting one for each takes most of the time.
    """

    folder: Path
    env: dict[str, str]
    forks: ForkServer | None = None

    def argv(self, *words: object) -> list[str]:
        return [*COMMAND, *map(str, words)]

    def __call__(
        self,
        *words: object,
        stdin: bytes | None = b"",
        ok: int | None = 0,
        timeout: float = 120,
    ) -> Ran:
        """Run to the end; the exit status must be ``ok`` unless that is None."""
        if self.forks is not None:
            return self.forks.run(self, *words, stdin=stdin or b"", ok=ok)
        done = subprocess.run(
            self.argv(*words),
            input=stdin,
            capture_output=True,
            env=self.env,
            cwd=self.folder,
            timeout=timeout,
            check=False,
        )
        ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
        if ok is not None:
            assert ok == ran.code, f"{words}: {ran}"
        return ran

    def start(self, *words: object, **keywords: Any) -> subprocess.Popen[bytes]:
        """Start and return at once."""
        keywords.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(
            self.argv(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
            cwd=self.folder,
            **keywords,
        )

    def elsewhere(self, name: str = "elsewhere") -> Standfast:
        """The same command on a machine that remembers nothing."""
        state = self.folder / f"state-{name}"
        env = self.env | {"XDG_STATE_HOME": str(state)}
        return dataclasses.replace(self, env=env)


class ForkServer:
    """The command in forks of one warm interpreter; see forkserver.py.

    Args:
        env: variables for the interpreter, besides our own.
    """

    def __init__(self, env: dict[str, str] | None = None) -> None:
        argv = [sys.executable, "-W", "error", str(ROOT / "tests" / "forkserver.py")]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | (env or {}),
        )

    def ask(self, standfast: Standfast, **request: Any) -> Ran:
        """Run one request to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps(request | {"env": standfast.env}, default=str) + "\n"
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
        return Ran(**json.loads(self._process.stdout.readline()))

    def run(
        self,
        standfast: Standfast,
        *words: object,
        stdin: bytes = b"",
        ok: int | None = 0,
    ) -> Ran:
        """Run a command line in its folder."""
        with tempfile.NamedTemporaryFile() as source:
            source.write(stdin)
            source.flush()
            ran = self.ask(
                standfast,
                argv=[*map(str, words)],
                stdin=source.name,
                folder=str(standfast.folder),
            )
        if ok is not None:
            assert ok == ran.code, f"{words}: {ran}"
        return ran

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def standfast(tmp_path: Path, request: pytest.FixtureRequest) -> Standfast:
    emulated = "STANDFAST_TESTS_EMULATED" in os.environ
    forks = request.getfixturevalue("forks") if emulated else None
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHONWARNINGS": "error",
        "LANG": "C.UTF-8",
    }
    return Standfast(tmp_path, env, forks)


@dataclasses.dataclass
class Made:
    """A vault made by the real command, with its owner's key file."""

    path: Path
    key: Path
    id: str
    recipient: str
    signer: str
    address: str

    def archives(self) -> list[Path]:
        return sorted((self.path / "archives").iterdir())


def make_vault(
    standfast: Standfast, path: Path, *options: object, address: str = ""
) -> Made:
    """Make a vault with the command."""
    key = path.with_name(path.name + ".key")
    place = address or str(path)
    words = ("backup", "init", place, "--new-identity", key, "--json", *options)
    made = standfast(*words).json()
    return Made(path, key, made["vault"], made["recipient"], made["signer"], place)


@pytest.fixture
def vault(standfast: Standfast, tmp_path: Path) -> Made:
    """A vault with small segments, so that a little data makes several."""
    return make_vault(standfast, tmp_path / "vault", "--segment-size", "64k")


def incompressible(size: int, seed: int = 1) -> bytes:
    """Bytes that look random and are the same each time."""
    return random.Random(seed).randbytes(size)


@dataclasses.dataclass
class Pool:
    """A real pool on a file."""

    name: str
    mount: Path

    def zfs(self, *words: str) -> str:
        done = subprocess.run(
            ["zfs", *words], capture_output=True, check=True, timeout=60
        )
        return done.stdout.decode()

    def dataset(self, name: str, files: dict[str, bytes]) -> str:
        """Make a dataset with files and a snapshot @s1; return its name."""
        full = f"{self.name}/{name}"
        self.zfs("create", full)
        for path, data in files.items():
            place = self.mount / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        self.zfs("snapshot", f"{full}@s1")
        return full

    def tree(self, name: str) -> dict[str, bytes]:
        """Return every file below a mounted dataset."""
        top = self.mount / name
        return {
            str(path.relative_to(top)): path.read_bytes()
            for path in sorted(top.rglob("*"))
            if path.is_file()
        }


def zfs_answers() -> bool:
    done = subprocess.run(["zpool", "list"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture(scope="session")
def zfs_daemon() -> Iterator[None]:
    """A ZFS that answers: the system's own, or zfs-fuse started for the tests."""
    need("zfs", "zpool")
    if zfs_answers():
        yield
        return
    need("zfs-fuse")
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("zfs-fuse needs root and /dev/fuse")
    with subprocess.Popen(
        ["zfs-fuse", "--no-daemon", "--no-kstat-mount"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as daemon:
        try:
            wait_until(zfs_answers, "zfs-fuse to answer")
            yield
        finally:
            daemon.terminate()
            daemon.wait(timeout=30)


def destroyed(name: str) -> bool:
    """Destroy a pool; it may be busy for a moment after its last user."""
    argv = ["zpool", "destroy", "-f", name]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def pool(zfs_daemon: None) -> Iterator[Pool]:  # noqa: ARG001 - it must run first
    """A pool of this run's own; destroyed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="standfast-pool-", dir="/var/tmp"))
    name = f"sft{os.getpid()}"
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(512 << 20)
    mount = folder / "mnt"
    options = ["-o", "cachefile=none", "-O", f"mountpoint={mount}"]
    run_quietly("zpool", "create", *options, name, disk)
    try:
        yield Pool(name, mount)
    finally:
        # On a busy machine zfs-fuse lets go of a mount half a minute later.
        for _ in range(300):
            if destroyed(name):
                break
            time.sleep(0.2)
        shutil.rmtree(folder, ignore_errors=True)


@dataclasses.dataclass
class Sshd:
    """A real sshd on loopback, a login of its own, and how to reach it.

    ``client_env`` puts an ``ssh`` in front of PATH that reads a configuration with
    the throw-away key, as a user's ~/.ssh/config would.
    """

    port: int
    user: str
    home: Path
    bin: Path
    process: subprocess.Popen[bytes]

    def address(self, name: str = "vault") -> str:
        return f"ssh://{self.user}@127.0.0.1:{self.port}{self.home / name}"

    def client(self, standfast: Standfast) -> Standfast:
        path = f"{self.bin}:{standfast.env['PATH']}"
        return Standfast(standfast.folder, standfast.env | {"PATH": path})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_quietly(*argv: object) -> None:
    subprocess.run([*map(str, argv)], check=True, capture_output=True, timeout=60)


def start_sshd(folder: Path, shell: str, more: str = "") -> Iterator[Sshd]:
    """Start an sshd whose one user has the given login shell.

    ``more`` is added to its configuration.
    """
    need("ssh", "ssh-keygen", "useradd", Path(shell).name)
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).exists():
        pytest.skip("sshd is not installed")
    if os.geteuid() != 0:
        pytest.skip("a login with another shell needs root")
    user = f"sft-{Path(shell).name}-{os.urandom(4).hex()}"
    home = folder / "home"
    run_quietly("useradd", "--no-log-init", "-M", "-d", home, "-s", shell, user)
    try:
        run_quietly("usermod", "-p", "*", user)
        home.mkdir()
        (home / ".ssh").mkdir()
        for name in ("host", "client"):
            run_quietly(
                "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name
            )
        keys = home / ".ssh" / "authorized_keys"
        shutil.copy(folder / "client.pub", keys)
        run_quietly("chown", "-R", user, home)
        yield from _serve(folder, sshd, user, home, more)
    finally:
        subprocess.run(["pkill", "-KILL", "-u", user], check=False)
        subprocess.run(["userdel", "-f", user], capture_output=True, check=False)


def _serve(folder: Path, sshd: str, user: str, home: Path, more: str) -> Iterator[Sshd]:
    port = free_port()
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\n"
        "UsePAM no\nStrictModes no\nPasswordAuthentication no\nPidFile none\n"
        f"AllowUsers {user}\nPrintMotd no\nMaxStartups 50\n{more}"
    )
    public = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    (folder / "ssh_config").write_text(
        f"Host *\n IdentityFile {folder / 'client'}\n IdentitiesOnly yes\n"
        f" UserKnownHostsFile {folder / 'known_hosts'}\n StrictHostKeyChecking yes\n"
    )
    programs = folder / "bin"
    programs.mkdir()
    wrapper = programs / "ssh"
    real = shutil.which("ssh")
    wrapper.write_text(f'#!/bin/sh\nexec {real} -F {folder / "ssh_config"} "$@"\n')
    wrapper.chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)
    argv = [sshd, "-D", "-E", str(folder / "sshd.log"), "-f", str(config)]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _listens(port), "sshd to listen")
            yield Sshd(port, user, home, programs, process)
        finally:
            process.terminate()
            process.wait(timeout=20)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def open_folder(prefix: str) -> Path:
    """A temporary folder that other users may pass through."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/var/tmp"))
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectServer]:
    """An S3 server with a bucket called vaults."""
    from objectstore import object_server  # noqa: PLC0415 - it imports this module

    with object_server() as server:
        yield server


@pytest.fixture(scope="session", params=["/bin/sh", "/bin/tcsh"])
def sshd(request: pytest.FixtureRequest) -> Iterator[Sshd]:
    """An sshd for each kind of login shell."""
    folder = open_folder("standfast-sshd-")
    try:
        yield from start_sshd(folder, request.param)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def plain_sshd() -> Iterator[Sshd]:
    """One sshd with sh, for what does not depend on the login shell."""
    folder = open_folder("standfast-sshd-")
    try:
        yield from start_sshd(folder, "/bin/sh")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sample(*names: str) -> Path:
    """Return a sample file that lies beside the project, or skip."""
    path = SAMPLES.joinpath(*names)
    if not path.exists():
        pytest.skip(f"the sample {'/'.join(names)} is not beside this checkout")
    return path
