"""kill -9 at every store operation and after every file-changing system call."""

from __future__ import annotations

import collections
import dataclasses
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import ForkServer, Made, Standfast, incompressible, make_vault, need
from faults import parts, signatures

from standfast.backup.model import ROOT_OBJECTS, SIGNATURE, SUMS

pytestmark = pytest.mark.system

KILLED = -signal.SIGKILL
ROOT_FILES = {*ROOT_OBJECTS, SUMS, SIGNATURE}
# Two segments of 64 KiB: more would repeat the same operations.
DATA = incompressible(100_000)
# Every call by which a file or folder comes, changes, lasts or goes.
CHANGING = (
    "openat",
    "write",
    "fsync",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rename",
    "renameat",
    "renameat2",
    "ftruncate",
)


@dataclasses.dataclass
class Scene:
    """A vault with one committed archive, copied afresh for each kill."""

    forks: ForkServer
    standfast: Standfast
    made: Made
    stdin: Path

    @property
    def state(self) -> Path:
        return Path(self.standfast.env["XDG_STATE_HOME"])

    def save(self) -> None:
        """Keep the state of things, to go back to."""
        for place in (self.made.path, self.state):
            if place.exists():
                shutil.copytree(place, place.with_name(f"{place.name}.saved"))

    def go_back(self) -> None:
        for place in (self.made.path, self.state):
            shutil.rmtree(place, ignore_errors=True)
            saved = place.with_name(f"{place.name}.saved")
            if saved.exists():
                shutil.copytree(saved, place)

    def run(self, *words: object, ok: int | None = 0) -> str:
        return self.forks.run(self.standfast, "backup", *words, ok=ok).out

    def send(self) -> None:
        words = ["backup", "send", "--stdin", "swept", str(self.made.path)]
        ran = self.forks.ask(self.standfast, argv=words, stdin=self.stdin)
        assert 0 == ran.code, ran

    def doomed(self, what: str, at: int, when: str) -> int:
        ran = self.forks.ask(
            self.standfast,
            doomed=what,
            vault=self.made.path,
            recipient=self.made.recipient,
            stdin=self.stdin,
            at=at,
            when=when,
        )
        assert ran.code in {0, KILLED}, ran
        return ran.code

    def check_after_send(self, where: object) -> None:
        """What must hold after a send was killed anywhere."""
        place = self.made.path
        before = len(signatures(self.made))
        assert before in {1, 2}, where
        verdict = self.run("verify", place)
        assert f"{before} of {before} archives are whole" in verdict, where
        self.send()
        verdict = self.run("verify", place)
        assert f"{before + 1} of {before + 1} archives are whole" in verdict, where
        leftovers = {p.parent.name for p in self._unsigned()}
        cleaned = self.run("clean", place)
        for name in leftovers:
            assert f"remove archives/{name}" in cleaned, where
        assert ([], []) == (self._unsigned(), parts(place)), where
        assert "all clean\n" == self.run("clean", place), where
        verdict = self.run("verify", place)
        assert f"{before + 1} of {before + 1} archives are whole (" in verdict, where
        assert "unfinished" not in verdict, where

    def check_after_init(self, where: object) -> None:
        """What must hold after an init was killed anywhere."""
        place = self.made.path
        words = ("init", place, "--recipient", self.made.recipient)
        finished = (place / "SHA256SUMS.minisig").exists()
        ran = self.forks.run(self.standfast, "backup", *words, ok=None)
        if finished:
            reason = f"there is a vault at {place} already"
            assert (1, True) == (ran.code, reason in ran.err), (where, ran)
        else:
            assert 0 == ran.code, (where, ran)
        self.send()
        verdict = self.run("verify", place)
        assert "1 of 1 archives are whole (" in verdict, where
        self.run("clean", place)
        assert {*ROOT_FILES, "archives"} == {p.name for p in place.iterdir()}, where

    def _unsigned(self) -> list[Path]:
        folders = (self.made.path / "archives").iterdir()
        unsigned = [f for f in folders if not (f / "SHA256SUMS.minisig").exists()]
        return [f / "-" for f in unsigned]


@pytest.fixture
def scene(forks: ForkServer, standfast: Standfast, tmp_path: Path) -> Scene:
    stdin = tmp_path / "stdin"
    stdin.write_bytes(DATA)
    made = make_vault(standfast, tmp_path / "vault", "--segment-size", "64k")
    return Scene(forks, standfast, made, stdin)


def forget(scene: Scene) -> None:
    """Go back to before there was a vault; its key file stays."""
    for place in (scene.made.path, scene.state):
        shutil.rmtree(place)


@pytest.mark.parametrize("when", ["before", "after"])
def test_send_killed_at_every_store_operation(scene: Scene, when: str) -> None:
    """The vault verifies, the next send works, leftovers are named and removed."""
    scene.send()
    scene.save()
    at = 1
    while scene.doomed("send", at, when) == KILLED:
        scene.check_after_send((when, at))
        scene.go_back()
        at += 1
    # vault.json, two segments, manifest, sums, flush, signature, flush.
    assert at > 8
    assert 2 == len(signatures(scene.made))


@pytest.mark.parametrize("when", ["before", "after"])
def test_init_killed_at_every_store_operation(scene: Scene, when: str) -> None:
    """The next init at the same address works, or says that there is a vault."""
    forget(scene)
    at = 1
    while scene.doomed("init", at, when) == KILLED:
        scene.check_after_init((when, at))
        forget(scene)
        at += 1
    # create, three documents, sums, flush, signature, flush.
    assert at > 8
    scene.run("verify", scene.made.path)


def trace(standfast: Standfast, log: Path, stdin: Path, *words: object) -> list[str]:
    """Run the command to its end; return its file-changing calls, one a line."""
    run_traced(standfast, ["-e", f"trace={','.join(CHANGING)}"], log, stdin, *words)
    return log.read_text().splitlines()


def run_traced(
    standfast: Standfast, options: list[str], log: Path, stdin: Path, *words: object
) -> int:
    need("strace")
    argv = ["strace", "-f", "-qq", "-y", "-o", str(log), *options]
    with stdin.open("rb") as source:
        done = subprocess.run(
            [*argv, *standfast.argv("backup", *words)],
            stdin=source,
            capture_output=True,
            env=standfast.env,
            cwd=standfast.folder,
            timeout=60,
            check=False,
        )
    if b"ptrace" in done.stderr.lower():
        pytest.skip(f"strace cannot trace here: {done.stderr.decode()}")
    return done.returncode


def run_killed(
    standfast: Standfast, call: str, number: int, log: Path, stdin: Path, *words: object
) -> int:
    """Run with SIGKILL in place of the n-th such call of a thread."""
    options = ["-e", f"trace={call}"]
    options += ["-e", f"inject={call}:signal=SIGKILL:when={number}"]
    return run_traced(standfast, options, log, stdin, *words)


def kill_points(log: list[str], *places: Path) -> list[tuple[str, int]]:
    """Return (call, n) for each call that concerns the places.

    strace counts a call's occurrences for each thread by itself, so n is that too.
    """
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    points: set[tuple[str, int]] = set()
    for line in log:
        match = re.match(r"(\d+) +(\w+)\((.*)", line)
        if match is None:
            continue
        thread, call, rest = match.groups()
        counts[thread, call] += 1
        reading = call == "openat" and "O_CREAT" not in rest
        if any(str(place) in rest for place in places) and not reading:
            points.add((call, counts[thread, call]))
    return sorted(points)


def test_send_killed_after_any_system_call(scene: Scene) -> None:
    """As above, in the real command and between two changes to the disk.

    A sample spread over all of them; the store operations are swept in full.
    """
    scene.send()
    scene.save()
    log = scene.standfast.folder / "trace"
    words = ("send", "--stdin", "swept", scene.made.path)
    whole = trace(scene.standfast, log, scene.stdin, *words)
    points = kill_points(whole, scene.made.path, scene.state)[::2]
    assert len(points) > 15
    killed = 0
    for call, number in points:
        scene.go_back()
        code = run_killed(scene.standfast, call, number, log, scene.stdin, *words)
        assert code in {0, KILLED}, (call, number)
        killed += code == KILLED
        scene.check_after_send((call, number))
    assert killed >= len(points) - 3


def test_init_killed_after_any_system_call(scene: Scene) -> None:
    """As above, for the making of a vault; a sample, too."""
    forget(scene)
    log = scene.standfast.folder / "trace"
    words = ("init", scene.made.path, "--recipient", scene.made.recipient)
    whole = trace(scene.standfast, log, Path("/dev/null"), *words)
    points = kill_points(whole, scene.made.path, scene.state)[::4]
    assert len(points) > 10
    killed = 0
    for call, number in points:
        forget(scene)
        code = run_killed(scene.standfast, call, number, log, Path("/dev/null"), *words)
        assert code in {0, KILLED}, (call, number)
        killed += code == KILLED
        scene.check_after_init((call, number))
    assert killed >= len(points) - 3
