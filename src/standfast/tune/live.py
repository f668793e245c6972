"""Facts of a machine that runs, through a Host: read only, nothing installed there.

FreeBSD is asked with `sysctl -i` (names it does not know are left out), `kldstat`
and `cat`; Linux with `cat` of /proc and /sys. A file that is not there is no error.
The image is what kldstat adds up to, without the symbol tables that the loader may
load beside it; of what the firmware keeps at the top of RAM nobody tells us.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from standfast.errors import CommandError, UsageError
from standfast.tune import facts as facts_module
from standfast.tune import kernelconf
from standfast.tune.budget import COUNTED
from standfast.tune.model import KIB, Facts
from standfast.tune.release import parse_release
from standfast.tune.rules.kva_span import ENTRY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from standfast.host import Host

TIMEOUT = 30.0
FREEBSD_NAMES = (
    "hw.machine_arch",
    "hw.physmem",
    "hw.realmem",
    "hw.ncpu",
    "kern.osrelease",
    "kern.features.pae",
    "vm.pmap.pae_mode",
    "vm.kvm_size",
    "vm.kvm_free",
    "vm.kmem_size",
    "vm.kmem_size_min",
    "vm.kmem_size_max",
    "vm.kmem_size_scale",
    "vm.kmem_map_size",
    "vm.kmem_map_free",
    "vm.stats.vm.v_page_count",
    "vm.stats.vm.v_free_count",
    "vfs.zfs.arc_max",
    "vfs.zfs.arc_min",
    "vfs.zfs.arc.max",
    "vfs.zfs.arc.min",
    "kstat.zfs.misc.arcstats",
)
LOADER_FILES = ("/boot/loader.conf", "/boot/loader.conf.local")
LOADER_FOLDER = "/boot/loader.conf.d"
MODPROBE_FOLDERS = ("/usr/lib/modprobe.d", "/run/modprobe.d", "/etc/modprobe.d")
ARCSTATS = "/proc/spl/kstat/zfs/arcstats"
_MODULE = re.compile(r"^\s*\d+\s+\d+\s+0x[0-9a-f]+\s+([0-9a-f]+)\s", re.MULTILINE)


def read_host(host: Host) -> Facts:
    """Return the facts of a running machine.

    Raises:
        UsageError: it runs neither FreeBSD nor Linux.
        CommandError: it cannot be asked.
    """
    system, release, machine = _run(host, ["uname", "-s", "-r", "-m"]).split()[:3]
    if system == "FreeBSD":
        return _freebsd(host, release, machine)
    if system == "Linux":
        return _linux(host, machine)
    raise UsageError(f"{host.name} runs {system}: tune knows FreeBSD and Linux")


def sysctl_values(text: str) -> dict[str, str]:
    """Return names and values of `sysctl` output, `name: value` or `name=value`."""
    values = {}
    for line in text.splitlines():
        name, sign, value = line.partition(":")
        if not sign or " " in name or "=" in name:
            name, sign, value = line.partition("=")
        if sign and name.strip() and " " not in name.strip():
            values[name.strip()] = value.strip()
    return values


def numbers(values: dict[str, str]) -> dict[str, int]:
    """Return the values that are whole numbers."""
    return {k: int(v) for k, v in values.items() if re.fullmatch(r"-?\d+", v)}


def freebsd_facts(
    values: dict[str, str], *, release: str, machine: str, kldstat: str = ""
) -> Facts:
    """Return the facts that sysctl and kldstat output hold."""
    known = numbers(values)
    arch = values.get("hw.machine_arch", machine)
    arch = {"aarch64": "arm64"}.get(arch, arch)
    if arch == "i386" and (
        known.get("kern.features.pae") or known.get("vm.pmap.pae_mode")
    ):
        arch = "i386-pae"
    pages = None
    span = known.get("vm.kvm_size")
    if arch in ENTRY and span is not None:
        pages = round(span / ENTRY[arch])
    sizes = [int(size, 16) for size in _MODULE.findall(kldstat)]
    ram = max(known.get("hw.realmem", 0), known.get("hw.physmem", 0)) or None
    return Facts(
        os="freebsd",
        release=values.get("kern.osrelease", release),
        arch=arch,
        ram=ram,
        kva_pages=pages,
        image=sum(sizes) or None,
        cpus=known.get("hw.ncpu"),
        live=(*known.items(), *((COUNTED, sum(sizes)) for _ in sizes[:1])),
    )


def linux_facts(meminfo: str, *, version: str, machine: str, arcstats: str) -> Facts:
    """Return the facts that /proc holds."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    live = kstat_values(arcstats)
    area = re.search(r"^VmallocTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    if area:
        live["VmallocTotal"] = int(area.group(1)) * KIB
    return Facts(
        os="linux",
        release=version.strip(),
        arch=machine,
        ram=int(total.group(1)) * KIB if total else None,
        live=tuple(live.items()),
    )


def kstat_values(text: str) -> dict[str, int]:
    """Return names and values of a Linux kstat file (two lines of heading)."""
    values = {}
    for line in text.splitlines()[2:]:
        words = line.split()
        if len(words) == 3 and re.fullmatch(r"-?\d+", words[2]):  # noqa: PLR2004
            values[words[0]] = int(words[2])
    return values


def _freebsd(host: Host, release: str, machine: str) -> Facts:
    # Old sysctl has no -i; it then says so and prints nothing, while without the
    # flag it complains of each unknown name and prints the others.
    printed = _run(host, ["sysctl", "-i", *FREEBSD_NAMES], ok=tuple(range(128)))
    printed = printed or _run(host, ["sysctl", *FREEBSD_NAMES], ok=(0, 1))
    values = sysctl_values(printed)
    modules = _run(host, ["kldstat"], ok=(0, 1))
    facts = freebsd_facts(values, release=release, machine=machine, kldstat=modules)
    config = _run(host, ["sysctl", "-n", "-i", "kern.conftxt"], ok=(0, 1))
    if config.strip():
        options = kernelconf.parse(
            config, file="kern.conftxt", include=facts_module.nothing
        ).options
        facts = replace(facts, kernel_options=options)
    known = parse_release(facts.release)
    names = list(LOADER_FILES)
    if known is not None and known.major >= 13:  # noqa: PLR2004
        names += _list(host, LOADER_FOLDER)
    sources = facts_module.Sources(
        loader=_texts(host, names), sysctl=_texts(host, ["/etc/sysctl.conf"])
    )
    facts = facts_module.with_files(facts, sources)
    return replace(facts, origin=host.name)


def _linux(host: Host, machine: str) -> Facts:
    version = _run(host, ["cat", "/sys/module/zfs/version"], ok=(0, 1))
    if not version.strip():
        version = _optional(host, ["modinfo", "-F", "version", "zfs"])
    facts = linux_facts(
        _run(host, ["cat", "/proc/meminfo"]),
        version=version,
        machine=machine,
        arcstats=_run(host, ["cat", ARCSTATS], ok=(0, 1)),
    )
    names = [name for folder in MODPROBE_FOLDERS for name in _list(host, folder)]
    sources = facts_module.Sources(modprobe=_texts(host, names))
    facts = facts_module.with_files(facts, sources)
    return replace(facts, origin=host.name)


def _run(host: Host, argv: list[str], *, ok: tuple[int, ...] = (0,)) -> str:
    result = host.run(argv, ok=ok, timeout=TIMEOUT)
    return result.stdout.decode(errors="replace")


def _optional(host: Host, argv: list[str]) -> str:
    try:
        return _run(host, argv, ok=tuple(range(256)))
    except CommandError:
        return ""


def _list(host: Host, folder: str) -> list[str]:
    """Return the *.conf files of a folder, sorted as the loaders do."""
    argv = ["find", folder, "-maxdepth", "1", "-name", "*.conf"]
    return sorted(line for line in _optional(host, argv).splitlines() if line)


def _texts(host: Host, names: Iterable[str]) -> list[tuple[str, str]]:
    texts = []
    for name in names:
        text = _run(host, ["cat", name], ok=(0, 1))
        if text:
            texts.append((name, text))
    return texts
