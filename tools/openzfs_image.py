"""Makes what the virtual machine of tools/openzfs.py boots, from Debian's packages.

Nothing of this machine is changed: apt gets a configuration, lists and a folder of
its own (with the contrib component added there), the packages are unpacked and
never installed, and zfs-dkms is built in a change of root that holds its compiler.
All that takes long is kept under names that carry the versions that went into it.

    modules-ZFS-KERNEL/     the kernel modules, built once for each pair of versions
    image-DIGEST/disk       the root file system of the guest, ext4
    image-DIGEST/vmlinuz    its kernel
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import scratch

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
KERNEL = "linux-image-cloud-amd64"
GUEST = (
    KERNEL,
    *("coreutils", "dash", "diffutils", "findutils", "grep", "gzip", "hostname"),
    *("iproute2", "kmod", "mawk", "mount", "procps", "sed", "tar", "udev"),
    *("util-linux", "python3", "zfsutils-linux"),
    *("age", "minisign", "pigz", "scrypt", "zstd"),
)
BUILDER = (
    # gcc by name: to apt any compiler will do, and configure looks for `cc`.
    *("linux-headers-cloud-amd64", "zfs-dkms", "gcc", "make"),
    *("coreutils", "dash", "diffutils", "findutils", "grep", "mawk", "sed"),
)
# Of the project's development packages, those that run tests.
TEST_PACKAGES = ("hypothesis", "pytest", "pytest-timeout")
WHEELS = ("manylinux_2_28_x86_64", "manylinux2014_x86_64", "manylinux_2_17_x86_64")
DISK_BYTES = 6 << 30
LARGEST_CACHE = 3
# What is there is used for a day before newer packages are looked for.
LISTS_SECONDS = 24 * 3600

_BUILD = """\
set -eu
cd /usr/src/zfs-*/
# The headers' empty KERNELRELEASE would be taken for that of the running kernel.
unset KERNELRELEASE
./configure --prefix=/usr --with-config=kernel \\
    --with-linux="$(echo /usr/src/linux-headers-*-common)" \\
    --with-linux-obj="$(echo /usr/src/linux-headers-*-cloud-amd64)"
make -j"$(nproc)"
strip --strip-debug module/*/*.ko
"""
_INIT = """\
#!/bin/sh
# The only program of the guest: sets up, runs /project/command, says how it ended.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devices /dev
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -opost 2>/dev/null
for number in 0:stdin 1:stdout 2:stderr; do
    ln -s "/proc/self/fd/${number%:*}" "/dev/${number#*:}"
done
ln -s /proc/self/fd /dev/fd
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shared /dev/shm
mount -t devpts terminals /dev/pts
mount -t tmpfs run /run
hostname openzfs
ip link set lo up
/lib/systemd/systemd-udevd --daemon >/dev/null 2>&1
modprobe zfs zfs_arc_max=268435456
mount /dev/nvme1n1 /project
cd /project && sh ./command
echo "guest-status: $?"
sync
echo b >/proc/sysrq-trigger
"""


@dataclass(frozen=True)
class Image:
    """What the virtual machine starts from."""

    disk: Path
    kernel: Path
    versions: str


def make_image(cache: Path) -> Image:
    """Return an image of the archive's present versions, made unless it is there.

    Raises:
        Unavailable: this machine cannot get, or cannot unpack, what it takes.
    """
    if os.uname().machine != "x86_64":
        raise scratch.Unavailable("the guest is made for x86-64 machines only")
    for program in ("apt-get", "dpkg-deb", "mke2fs"):
        scratch.program_path(program)
    cache.mkdir(parents=True, exist_ok=True)
    apt = Apt(cache / "apt")
    for age in (LISTS_SECONDS, 0):
        apt.update(age)
        image, make = _plan(apt, cache)
        if image.kernel.exists():
            image.disk.parent.touch()
            return image
    if os.geteuid() != 0:
        raise scratch.Unavailable("building zfs-dkms in a change of root needs root")
    make()
    _forget_old(cache)
    return image


def _plan(apt: Apt, cache: Path) -> tuple[Image, Callable[[], None]]:
    """Return the image that the lists ask for, and what makes it."""
    guest, builder = apt.closure(GUEST), apt.closure(BUILDER)
    zfs = version_of("zfs-dkms", builder)
    kernel = version_of("linux-headers-cloud-amd64", builder)
    modules = cache / f"modules-{zfs}-{kernel}"
    wanted = requirements()
    recipe = [*guest, modules.name, *wanted, *WHEELS, _INIT, str(DISK_BYTES)]
    digest = hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:16]
    place = cache / f"image-{digest}"
    image = Image(place / "disk", place / "vmlinuz", f"OpenZFS {zfs}, Linux {kernel}")

    def make() -> None:
        if not modules.exists():
            _build_modules(apt, builder, modules)
        _build_image(apt, guest, modules, wanted, image)

    return image, make


class Apt:
    """apt-get with sources, lists, status and archives of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._options = [
            *("-o", f"Dir::Etc::sourcelist={folder / 'debian.list'}"),
            *("-o", "Dir::Etc::sourceparts=-"),
            *("-o", f"Dir::State={folder}"),
            *("-o", f"Dir::State::status={folder / 'status'}"),
            *("-o", f"Dir::Cache={folder}"),
            *("-o", "APT::Sandbox::User="),
            *("-o", "APT::Get::AllowUnauthenticated=false"),
            *("-o", "APT::Install-Recommends=false"),
            *("-q", "-y"),
        ]

    def update(self, age: float) -> None:
        """Fetch the lists of the Debian archive, unless they are younger than ``age``.

        Raises:
            Unavailable: this is no Debian, or the archive cannot be reached.
        """
        fetched = self._folder / "fetched"
        if fetched.exists() and time.time() - fetched.stat().st_mtime < age:
            return
        for name in ("lists/partial", "archives/partial"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        (self._folder / "debian.list").write_text(_sources())
        try:
            self._run("update")
        except scratch.Unavailable as reason:
            if not (age and fetched.exists()):
                raise
            print(f"going on with old lists: {reason}", flush=True)
            return
        fetched.touch()

    def closure(self, packages: tuple[str, ...]) -> list[str]:
        """Return ``NAME=VERSION`` of packages and of all that they depend on."""
        said = self._run("-s", "install", *packages)
        found = re.findall(r"^Inst (\S+) \((\S+) ", said, re.MULTILINE)
        return sorted(f"{name}={version}" for name, version in found)

    def unpack(self, packages: list[str], root: Path) -> None:
        """Download packages and unpack them, with /usr merged as Debian has it."""
        self._run("--download-only", "install", *packages)
        for name in ("bin", "lib", "lib64", "sbin"):
            (root / "usr" / name).mkdir(parents=True)
            (root / name).symlink_to(f"usr/{name}")
        for package in packages:
            file = self._file(package)
            tar = [*("tar", "-C", str(root), "--keep-directory-symlink", "-xf", "-")]
            with subprocess.Popen(
                ["dpkg-deb", "--fsys-tarfile", str(file)], stdout=subprocess.PIPE
            ) as opened:
                subprocess.run(tar, stdin=opened.stdout, check=True)
            if opened.returncode != 0:
                raise scratch.Unavailable(f"cannot unpack {file.name}")
        for name in ("awk", "cc"):
            link = root / "usr" / "bin" / name
            link.unlink(missing_ok=True)
            link.symlink_to({"awk": "mawk", "cc": "gcc"}[name])

    def _file(self, package: str) -> Path:
        name, _, version = package.partition("=")
        stem = f"{name}_{version.replace(':', '%3a')}_"
        (found,) = (self._folder / "archives").glob(f"{stem}*.deb")
        return found

    def _run(self, *words: str) -> str:
        argv = ["apt-get", *self._options, *words]
        env = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(
            argv, capture_output=True, text=True, env=env, check=False
        )
        if done.returncode != 0:
            last = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            raise scratch.Unavailable(f"apt-get {words[0]}: {'; '.join(last)}")
        return done.stdout


def version_of(name: str, packages: list[str]) -> str:
    """Return a package's version out of a closure."""
    (found,) = (p.partition("=")[2] for p in packages if p.partition("=")[0] == name)
    return found


def requirements() -> list[str]:
    """Return what pip is to put on the image: the project's needs, and pytest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dev = project["optional-dependencies"]["dev"]
    tests = [line for line in dev if line.split()[0] in TEST_PACKAGES]
    return sorted([*project["dependencies"], *tests])


def _sources() -> str:
    """Return the machine's own Debian sources, with contrib beside main."""
    line = "$(ORIGIN) $(REPO_URI) $(RELEASE)"
    chosen = ("Created-By: Packages", "Component: main")
    said = scratch.must("apt-get", "indextargets", "--format", line, *chosen)
    words = [line.split() for line in said.splitlines()]
    found = {(w[1], w[2]) for w in words if len(w) == 3 and w[0] == "Debian"}
    if not found:
        raise scratch.Unavailable(
            "apt knows no Debian archive here (after `apt-get update`)"
        )
    signed = f"[signed-by={KEYRING}]"
    lines = [f"deb {signed} {uri} {suite} main contrib" for uri, suite in found]
    return "\n".join(sorted(lines)) + "\n"


def _build_modules(apt: Apt, packages: list[str], modules: Path) -> None:
    print("building the kernel modules: some minutes", flush=True)
    with scratch.folder("openzfs-build-", "/var/tmp") as root:
        apt.unpack(packages, root)
        for name in ("proc", "dev", "tmp"):
            (root / name).mkdir(exist_ok=True)
        (root / "build.sh").write_text(_BUILD)
        # The mounts are in a namespace of their own and end with it.
        script = (
            'mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev" && '
            'exec chroot "$1" /bin/sh /build.sh'
        )
        argv = ["unshare", "--mount", "--", "sh", "-c", script, "sh", str(root)]
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        with (root / "build.log").open("wb") as log:
            done = subprocess.run(argv, stdout=log, stderr=log, env=env, check=False)
        if done.returncode != 0:
            sys.stderr.write((root / "build.log").read_text(errors="replace")[-4000:])
            raise SystemExit("zfs-dkms does not build against this kernel")
        part = modules.with_name(f"{modules.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for module in root.glob("usr/src/zfs-*/module/*/*.ko"):
            shutil.copy(module, part)
        part.rename(modules)


def _build_image(
    apt: Apt, packages: list[str], modules: Path, wanted: list[str], image: Image
) -> None:
    print("making the disk image", flush=True)
    place = image.disk.parent
    place.mkdir(exist_ok=True)
    with scratch.folder("openzfs-root-", "/var/tmp") as root:
        apt.unpack(packages, root)
        python = next(root.glob("usr/bin/python3.*")).name
        _install_wheels(root, python, wanted)
        release = next(root.glob("lib/modules/*"))
        (release / "extra").mkdir()
        for module in modules.iterdir():
            shutil.copy(module, release / "extra")
        _inside(root, "depmod", release.name)
        _settle(root)
        kernel = next(root.glob("boot/vmlinuz-*"))
        shutil.copy(kernel, place / "vmlinuz.part")
        make_disk(root, image.disk, DISK_BYTES)
    (place / "vmlinuz.part").rename(image.kernel)


def _install_wheels(root: Path, python: str, wanted: list[str]) -> None:
    target = root / "usr" / "local" / "lib" / python / "dist-packages"
    target.mkdir(parents=True)
    platforms = [word for name in WHEELS for word in ("--platform", name)]
    argv = [
        *(sys.executable, "-m", "pip", "install", "--quiet"),
        *("--disable-pip-version-check", "--only-binary=:all:", *platforms),
        *("--python-version", python.removeprefix("python")),
        *("--target", str(target), *wanted),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise scratch.Unavailable(f"pip: {done.stderr.strip().splitlines()[-1:]}")
    (target / "standfast.pth").write_text("/project/src\n")
    places = (f"/usr/lib/{python}", f"/usr/local/lib/{python}/dist-packages")
    # It fails where a package brings a file for another Python; that is no matter.
    _inside(root, "sh", "-c", f"{python} -m compileall -q {' '.join(places)} || true")


def _inside(root: Path, *argv: str) -> None:
    """Run a program of the guest, with the guest's own libraries."""
    program = scratch.program_path("chroot")
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    argv = (program, str(root), *argv)
    subprocess.run(argv, check=True, capture_output=True, env=env)


def _settle(root: Path) -> None:
    """Do by hand what the packages' own scripts would."""
    for name in ("proc", "sys", "dev", "run", "tmp", "project", "root", "var/tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    groups = "root tty disk kmem dialout video audio cdrom tape input kvm render lp sgx"
    lines = [f"{name}:x:{number}:\n" for number, name in enumerate(groups.split())]
    (root / "etc" / "group").write_text("".join(lines))
    (root / "etc" / "mtab").symlink_to("/proc/mounts")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost openzfs\n")
    init = root / "init"
    init.write_text(_INIT)
    init.chmod(0o755)
    for name in (
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
        "usr/share/perl",
    ):
        shutil.rmtree(root / name, ignore_errors=True)


def make_disk(tree: Path, disk: Path, size: int) -> None:
    """Make an ext4 image that holds a tree; it takes the room of its contents."""
    part = disk.with_name(f"{disk.name}.part")
    part.unlink(missing_ok=True)
    options = "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1"
    argv = [scratch.program_path("mke2fs"), "-q", "-F", "-t", "ext4", "-d", str(tree)]
    argv += ["-E", options, "-O", "^metadata_csum_seed", str(part), f"{size // 1024}k"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    part.rename(disk)


def _forget_old(cache: Path) -> None:
    """Keep the images used last; downloaded packages are in them already."""
    shutil.rmtree(cache / "apt" / "archives", ignore_errors=True)
    images = sorted(cache.glob("image-*"), key=lambda p: p.stat().st_mtime)
    for old in images[:-LARGEST_CACHE]:
        shutil.rmtree(old)
