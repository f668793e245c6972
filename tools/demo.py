"""Shows the whole way on real input, and proves each step by comparing.

A real ZFS snapshot goes to a directory vault and, through a real sshd, to an ssh
vault; both are verified without a key and restored; damage is done and must be
named; and at last the stock tools alone bring the data back. What the machine does
not have is left out and named at the end. Exits 0 only if every comparison held;
takes away all that it made.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
POOL_SIZE = 512 * MIB
SOURCE_BYTES = 24 * MIB
DENSE_FILES = 4
DENSE_BYTES = 6 * MIB
STOCK = ("minisign", "sha256sum", "age", "zstd")
DAMAGED = 13
Tree = dict[str, tuple[str, int, str]]


class Failed(Exception):  # noqa: N818 - the demo's own word
    """Something was not as promised."""


@dataclass
class Demo:
    """The run: its folder, its environment, and what it has to say at the end."""

    folder: Path
    env: dict[str, str]
    proven: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def standfast(self, *words: str, ok: int = 0, stdin: Path | None = None) -> str:
        """Run ``standfast backup``, showing the line as a person types it."""
        typed = shlex.join(["standfast", "backup", *words])
        print(f"$ {typed}" + (f" < {stdin.name}" if stdin else ""), flush=True)
        argv = [sys.executable, "-m", "standfast", "backup", *words]
        with (stdin or Path(os.devnull)).open("rb") as source:
            return self._run(argv, ok, source.fileno())

    def shell(self, typed: str, ok: int = 0) -> str:
        """Run a line of sh, in which ``standfast`` is ours."""
        print(f"$ {typed}", flush=True)
        us = shlex.join([sys.executable, "-m", "standfast"])
        argv = ["sh", "-c", f'standfast() {{ {us} "$@"; }}\n{typed}']
        return self._run(argv, ok, subprocess.DEVNULL)

    def _run(self, argv: list[str], ok: int, stdin: int) -> str:
        done = subprocess.run(
            argv,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env=self.env,
            text=True,
            timeout=120,
            check=False,
        )
        for line in done.stdout.splitlines():
            print(f"  {line}")
        if ok:
            print(f"  (exit status {done.returncode})")
        if done.returncode != ok:
            raise Failed(f"exit status {done.returncode} instead of {ok}")
        return done.stdout

    def holds(self, what: str) -> None:
        """Note something that was compared and held."""
        print(f"  = {what}", flush=True)
        self.proven.append(what)

    @contextlib.contextmanager
    def unless_missing(self, what: str) -> Iterator[None]:
        """Leave a part out, with the reason, where the machine lacks something."""
        try:
            yield
        except scratch.Unavailable as reason:
            print(f"  left out: {reason}", flush=True)
            self.left_out.append(f"{what}: {reason}")


class Source(Protocol):
    """What goes out and must come back the same."""

    name: str

    def send(self, demo: Demo, vault: str) -> None:
        """Send it to a vault."""

    def restore(self, demo: Demo, vault: str, turn: str) -> None:
        """Restore it under a name of this turn, and compare."""

    def recovery(self, turn: str) -> dict[str, str]:
        """Return what RECOVER.txt is told to restore, and where to."""

    def compare(self, demo: Demo, turn: str) -> None:
        """Compare what came back in this turn with what was sent.

        Raises:
            Failed: it differs.
        """


class Snapshot:
    """A real ZFS snapshot; comes back as a dataset."""

    def __init__(self, pool: str, mount: Path, files: Tree) -> None:
        self.name = f"{pool}/data@monday"
        self._pool = pool
        self._mount = mount
        self._files = files

    def send(self, demo: Demo, vault: str) -> None:
        demo.standfast("send", self.name, vault)

    def restore(self, demo: Demo, vault: str, turn: str) -> None:
        target = f"{self._pool}/{turn}"
        demo.standfast("restore", vault, self.name, target, "-i", "owner.key")
        self.compare(demo, turn)

    def recovery(self, turn: str) -> dict[str, str]:
        return {"TARGET": f"{self._pool}/{turn}"}

    def compare(self, demo: Demo, turn: str) -> None:
        found = read_tree(self._mount / turn)
        if found != self._files:
            changed = set(found.items()) ^ set(self._files.items())
            raise Failed(f"{turn}: differs at {min(changed)[0]}")
        guids = [
            scratch.must("zfs", "get", "-Hp", "-o", "value", "guid", name).strip()
            for name in (self.name, f"{self._pool}/{turn}@monday")
        ]
        if guids[0] != guids[1]:
            raise Failed(f"{turn}: the snapshot's GUID is another")
        demo.holds(
            f"{turn}: {len(found)} files, folders and links are the same in content, "
            f"mode and time, and the snapshot has GUID {guids[0]}"
        )


class Bytes:
    """A stream of bytes, where there is no ZFS; comes back as a file."""

    name = "files.tar"

    def __init__(self, folder: Path) -> None:
        self._file = folder / self.name
        with tarfile.open(self._file, "w") as archive:
            archive.add(folder / "files", "files")

    def send(self, demo: Demo, vault: str) -> None:
        demo.standfast("send", "--stdin", self.name, vault, stdin=self._file)

    def restore(self, demo: Demo, vault: str, turn: str) -> None:
        place = ("-o", f"{turn}.tar")
        demo.standfast("restore", vault, self.name, *place, "-i", "owner.key")
        self.compare(demo, turn)

    def recovery(self, turn: str) -> dict[str, str]:
        return {"OUTPUT": str(self._file.with_name(f"{turn}.tar"))}

    def compare(self, demo: Demo, turn: str) -> None:
        back = self._file.with_name(f"{turn}.tar")
        if digest(back) != digest(self._file):
            raise Failed(f"{turn}: differs")
        size = self._file.stat().st_size
        demo.holds(f"{turn}: {size} bytes with the same SHA-256")


def main() -> int:
    """Run the demo and return its exit status."""
    scratch.stop_on_signals()
    started = time.monotonic()
    try:
        with scratch.folder("standfast-demo-", _roomy()) as place:
            demo = Demo(place, environment(place))
            _steps(demo)
    except (Failed, OSError) as failure:
        print(f"\nFAILED: {failure}")
        return 1
    except subprocess.TimeoutExpired as failure:
        print(f"\nFAILED: no end after {failure.timeout:g} s: {failure.cmd}")
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; what was made is taken away")
        return 130
    _summary(demo, time.monotonic() - started)
    return 0


def _steps(demo: Demo) -> None:
    with contextlib.ExitStack() as stack:
        source = _first(demo, stack)
        _directory(demo, source)
        _ssh(demo, source, stack)
        _damage(demo)
        _cut_sender(demo, source)
        _recover(demo, source)
        print("\ntaking everything away again", flush=True)


def _first(demo: Demo, stack: contextlib.ExitStack) -> Source:
    """Make what is to be backed up: a snapshot if there is a ZFS."""
    _step("1. Something worth keeping: a ZFS snapshot")
    with demo.unless_missing("ZFS (a stream of bytes was sent instead)"):
        pool = stack.enter_context(scratch.pool(demo.folder, POOL_SIZE))
        demo.shell(f"zfs create {pool}/data")
        data = demo.folder / "mnt" / "data"
        fill(data)
        demo.shell(f"zfs snapshot {pool}/data@monday")
        demo.shell(f"zfs list -r -t all {pool}")
        return Snapshot(pool, demo.folder / "mnt", read_tree(data))
    fill(demo.folder / "files")
    return Bytes(demo.folder)


def _directory(demo: Demo, source: Source) -> None:
    _step("2. Out to a directory, proven there without a key, and back")
    demo.standfast("init", "vault", "--new-identity", "owner.key")
    source.send(demo, "vault")
    _show(demo.folder / "vault")
    demo.standfast("verify", "vault")
    demo.standfast("list", "vault")
    source.restore(demo, "vault", "from-directory")


def _ssh(demo: Demo, source: Source, stack: contextlib.ExitStack) -> None:
    _step("3. The same through ssh; nothing is installed at the far end")
    with demo.unless_missing("the ssh vault"):
        place = stack.enter_context(scratch.folder("standfast-sshd-", _roomy()))
        far = stack.enter_context(scratch.loopback(place))
        demo.env["PATH"] = f"{far.bin}:{demo.env['PATH']}"
        owner = (demo.folder / "owner.key").read_text()
        recipient = owner.partition("public key: ")[2].split()[0]
        address = far.address("vault")
        demo.standfast("init", address, "--recipient", recipient)
        source.send(demo, address)
        demo.standfast("verify", address)
        source.restore(demo, address, "from-ssh")


def _damage(demo: Demo) -> None:
    _step("4. One byte less, or one bit changed: seen without a key, and named")
    original = demo.folder / "vault"
    victims = sorted(original.rglob("*.zst.age"))
    for how, change in (("cut", _cut), ("flipped", _flip)):
        copy = demo.folder / how
        shutil.copytree(original, copy)
        victim = copy / victims[-1].relative_to(original)
        print(f"({how}: a copy of the vault, {change(victim)} of {victim.name})")
        words = demo.standfast("verify", how, ok=DAMAGED)
        if victim.name not in words:
            raise Failed(f"{victim.name} was not named")
        demo.holds(f"{how}: verify named {victim.name}, exit status {DAMAGED}")
        shutil.rmtree(copy)


def _cut(victim: Path) -> str:
    size = victim.stat().st_size - 1
    os.truncate(victim, size)
    return "the last byte"


def _flip(victim: Path) -> str:
    with victim.open("r+b") as file:
        place = victim.stat().st_size // 2
        file.seek(place)
        (old,) = file.read(1)
        file.seek(place)
        file.write(bytes([old ^ 1]))
    return f"one bit at byte {place}"


def _cut_sender(demo: Demo, source: Source) -> None:
    """Show that a sender that dies leaves nothing that counts as a backup."""
    if not isinstance(source, Snapshot):
        return
    _step("5. A sender that dies half-way leaves no backup")
    pipe = f"zfs send {source.name} | head -c 9000000"
    demo.shell(f"{pipe} | standfast backup send --stdin half vault", ok=1)
    words = demo.standfast("list", "vault", "-i", "owner.key")
    if "half" in words:
        raise Failed("half a stream is listed as a backup")
    demo.standfast("clean", "vault")
    demo.standfast("verify", "vault")
    demo.holds("a cut send stream was refused; the vault is whole")


def _recover(demo: Demo, source: Source) -> None:
    _step("6. Back with stock tools alone: the lines of vault/RECOVER.txt, run by sh")
    with demo.unless_missing("recovery with stock tools"):
        for program in STOCK:
            scratch.program_path(program)
        text = (demo.folder / "vault" / "RECOVER.txt").read_text()
        lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
        key = str(demo.folder / "owner.key")
        told = {"VAULT": "vault", "KEY": key, "WANT": source.name}
        told |= source.recovery("by-stock-tools")
        told = {name: shlex.quote(value) for name, value in told.items()}
        print("\n".join(f"  {line}" for line in lines if line))
        (demo.folder / "recover.sh").write_text("\n".join(lines) + "\n")
        settings = " ".join(f"{name}={value}" for name, value in told.items())
        demo.shell(f"{settings} sh recover.sh")
        source.compare(demo, "by-stock-tools")


def _summary(demo: Demo, seconds: float) -> None:
    print(f"\n== All of it held, in {seconds:.0f} s ==")
    for line in demo.proven:
        print(f"  proven    {line}")
    for line in demo.left_out:
        print(f"  left out  {line}")


def _step(title: str) -> None:
    print(f"\n== {title} ==", flush=True)


def _show(vault: Path) -> None:
    """Show what a stranger sees of a vault."""
    print("(the vault, as whoever holds it sees it)")
    for path in sorted(vault.rglob("*")):
        if path.is_file():
            print(f"  {path.stat().st_size:>10}  {path.relative_to(vault)}")


def environment(place: Path) -> dict[str, str]:
    path = [os.environ.get("PATH", os.defpath), *scratch.SBIN]
    return {
        "PATH": os.pathsep.join(path),
        "HOME": str(place),
        "XDG_STATE_HOME": str(place / "state"),
        "PYTHONPATH": str(ROOT / "src"),
        "LANG": "C.UTF-8",
    }


def _roomy() -> str | None:
    """Return a place on disk, as /tmp may be small and in memory."""
    return "/var/tmp" if os.access("/var/tmp", os.W_OK) else None


def fill(place: Path) -> None:
    """Fill a folder with real source files, dense ones, and hard cases."""
    place.mkdir(exist_ok=True)
    copied = 0
    library = Path(sysconfig.get_path("stdlib"))
    for top, folders, names in os.walk(library):
        folders[:] = sorted({*folders} - {"site-packages", "__pycache__", "test"})
        for name in sorted(names):
            file = Path(top, name)
            if file.suffix != ".py" or copied > SOURCE_BYTES:
                continue
            target = place / "library" / file.relative_to(library)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
            target.chmod((0o644, 0o600, 0o755, 0o444)[copied % 4])
            copied += file.stat().st_size
    for number in range(DENSE_FILES):
        (place / f"dense-{number}").write_bytes(os.urandom(DENSE_BYTES))
    (place / "an empty folder").mkdir(mode=0o700)
    (place / "an empty file").touch()
    (place / "zeros").write_bytes(bytes(3 * MIB))
    (place / "näme with 'quotes' and\ttab").write_text("ok\n")
    (place / "link").symlink_to("library/os.py")


def read_tree(top: Path) -> Tree:
    """Return kind, mode, time and content of everything below a folder."""
    return {str(path.relative_to(top)): _facts(path) for path in top.rglob("*")}


def _facts(path: Path) -> tuple[str, int, str]:
    state = path.lstat()
    content = ""
    if stat.S_ISREG(state.st_mode):
        content = digest(path)
    elif stat.S_ISLNK(state.st_mode):
        content = str(path.readlink())
    return stat.filemode(state.st_mode), state.st_mtime_ns, content


def digest(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
