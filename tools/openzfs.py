"""Runs the tests that need a modern OpenZFS inside a small virtual machine.

zfs-fuse, which the other tests drive, is pool version 23: no bookmarks, no raw
sends, no encryption, no resumable receive. The guest has Debian's cloud kernel, its
zfs-dkms and its Python, and no network; it is given this checkout, runs pytest on
tests/openzfs and on every test marked ``zfs_any``, and its output is ours. Arguments
are passed on to pytest, as in ``tools/openzfs.py -k bookmark``.

Exit status: pytest's own. Where the machine lacks what it takes the reason is
printed and the status is 0, but with CI set in the environment it is 1.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import scratch
from openzfs_image import ROOT, Image, make_disk, make_image

# A guest that has not ended by then never will; far above what the tests take.
GUEST_SECONDS = 45 * 60
PROJECT_BYTES = 256 << 20
STATUS = "guest-status: "
PARTS = ("src", "tests", "pyproject.toml")
# With two virtual processors of plain emulation a test takes several times longer.
TIMEOUT = "600"


def main(words: list[str]) -> int:
    """Make the image unless it is there, run the guest, return the status."""
    scratch.stop_on_signals()
    try:
        qemu = scratch.program_path("qemu-system-x86_64")
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            image = make_image(cache)
        made = time.monotonic()
    except scratch.Unavailable as reason:
        print(f"openzfs: not run: {reason}", file=sys.stderr)
        return 1 if os.environ.get("CI") else 0
    print(f"openzfs: {image.versions}; image after {made - begun:.0f} s", flush=True)
    with scratch.folder("openzfs-run-", "/var/tmp") as folder:
        status = run_guest(qemu, image, folder, words)
    print(f"openzfs: guest ended after {time.monotonic() - made:.0f} s")
    return status


def cache_folder() -> Path:
    """Return where images are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(base) if base.startswith("/") else Path.home() / ".cache"
    return home / "standfast-openzfs"


def marked_tests() -> list[str]:
    """Return the test files that hold tests for any ZFS, and those for OpenZFS."""
    tests = ROOT / "tests"
    marked = [p for p in tests.rglob("test_*.py") if "zfs_any" in p.read_text()]
    own = sorted(tests.glob("openzfs/test_*.py"))
    return [str(p.relative_to(ROOT)) for p in sorted({*marked, *own})]


def make_project(folder: Path, words: list[str]) -> Path:
    """Return a disk image with the checkout and the command to run."""
    tree = folder / "project"
    tree.mkdir()
    no_caches = shutil.ignore_patterns("__pycache__")
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=no_caches)
        else:
            shutil.copy(source, tree / name)
    pytest = [
        *("python3", "-m", "pytest", "-p", "no:cacheprovider", "--color=no"),
        *("-m", "zfs_any or openzfs", "--durations=5"),
        *("-o", f"timeout={TIMEOUT}", *(words or ["-v"]), *marked_tests()),
    ]
    exports = "export CI=1 COLUMNS=100 STANDFAST_TESTS_EMULATED=1\n"
    (tree / "command").write_text(exports + shlex.join(pytest) + "\n")
    disk = folder / "project.disk"
    make_disk(tree, disk, PROJECT_BYTES)
    return disk


def run_guest(qemu: str, image: Image, folder: Path, words: list[str]) -> int:
    """Boot the guest, show what it says, return the status that it names."""
    project = make_project(folder, words)
    drives = []
    for number, disk in enumerate((image.disk, project)):
        drive = f"file={disk},if=none,id=d{number},format=raw,snapshot=on"
        drives += ["-drive", drive]
        drives += ["-device", f"nvme,drive=d{number},serial=d{number}"]
    append = "console=ttyS0 root=/dev/nvme0n1 rw init=/init panic=-1 loglevel=3"
    # On a busy machine the emulated timer is late, and the kernel's check of it panics.
    append += " no_timer_check"
    accel = "kvm" if kvm_boots(qemu, image) else "tcg"
    argv = [*machine(qemu, image, accel, append), *drives]
    print(f"openzfs: the guest runs on {accel}", flush=True)
    env = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env
    ) as guest:
        watch = threading.Timer(GUEST_SECONDS, guest.kill)
        watch.start()
        try:
            return _listen(guest)
        finally:
            watch.cancel()
            guest.kill()


def machine(qemu: str, image: Image, accel: str, append: str) -> list[str]:
    """Return the command that boots the guest's kernel; it shows its console."""
    return [
        *(qemu, "-machine", f"q35,accel={accel}", "-smp", "2", "-m", "2048"),
        # Some clouds' processors lie about this register, and qemu gives up.
        *("-cpu", "max,arch-capabilities=off"),
        *("-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"),
        *("-serial", "stdio", "-kernel", str(image.kernel), "-append", append),
    ]


def kvm_boots(qemu: str, image: Image) -> bool:
    """Return whether KVM does more than exist: nested, it may hang without a word."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    argv = machine(qemu, image, "kvm", "console=ttyS0 panic=-1")
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False
        )
    except subprocess.TimeoutExpired as late:
        return b"Linux version" in (late.stdout or b"")
    return b"Linux version" in done.stdout


def _listen(guest: subprocess.Popen[bytes]) -> int:
    status = None
    assert guest.stdout is not None
    for raw in guest.stdout:
        line = raw.decode(errors="replace").rstrip("\r\n")
        if line.startswith(STATUS):
            status = int(line.removeprefix(STATUS))
        else:
            print(line, flush=True)
    if status is None:
        print("openzfs: the guest ended without a result", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
