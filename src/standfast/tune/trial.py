"""The safe way to try settings: steps for this release, and the way back.

Pure. For every way it says whether it comes back by itself after a panic. The rule
behind all of it: a one-shot setting is one-shot only if somebody can take it back
before the kernel runs. The loader can rewrite /boot/nextboot.conf on UFS but cannot
write to ZFS; a pool's boot variables (zfsbootcfg, `bectl activate -t`) are cleared
by the boot blocks as they are read.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from standfast.errors import UsageError
from standfast.tune.release import Release, parse_release

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.tune.model import Facts, Setting

SOURCE = "nextboot.sh of 12.1R and main 023fc80e; bectl.8 of 13c; config.lua"


class Return(Enum):
    """Whether the old settings are back at the boot after a panic."""

    YES = "comes back by itself"
    NO = "does NOT come back by itself"
    UNSURE = "may not come back by itself"


@dataclass(frozen=True)
class Way:
    """One way to try.

    Attributes:
        name: what to call it.
        returns: whether it comes back by itself.
        why: one sentence.
        steps: commands and keys, in order.
        undo: how to take it back while the machine runs.
    """

    name: str
    returns: Return
    why: str
    steps: tuple[str, ...]
    undo: str


@dataclass(frozen=True)
class Trial:
    """The ways for one machine, safest first, and how to get out."""

    ways: tuple[Way, ...]
    rescue: tuple[str, ...]


class Boot(Enum):
    """What /boot lies on."""

    ZFS = "zfs"
    UFS = "ufs"
    UNKNOWN = "unknown"


def steps(
    facts: Facts, settings: Sequence[Setting], *, boot: Boot, kernel: str = "kernel"
) -> Trial:
    """Return the ways to try those settings on that machine.

    Raises:
        UsageError: there is nothing to try, or no release is known.
    """
    if not settings:
        raise UsageError("nothing to try", hint="give --set NAME=VALUE or a file")
    if facts.os == "linux":
        return _linux(settings)
    release = parse_release(facts.release)
    if release is None:
        raise UsageError("no steps without a release", hint="give --release")
    ways = [_prompt(settings)]
    if release.major >= 12 and boot is not Boot.UFS:  # noqa: PLR2004
        ways.append(_environment(release, settings))
    if release.major >= 13 and boot is not Boot.UFS:  # noqa: PLR2004
        ways.append(_boot_config(settings))
    ways.append(_nextboot(release, settings, boot, kernel))
    ways.append(_file(settings))
    return Trial(tuple(ways), _rescue(release, settings))


def _prompt(settings: Sequence[Setting]) -> Way:
    return Way(
        "loader prompt",
        Return.YES,
        "nothing is stored; the next boot reads the old files",
        (
            "reboot, and stop the loader: `Escape to loader prompt` in the menu",
            *(f'set {s.name}="{s.text}"' for s in settings),
            "boot",
        ),
        "nothing to undo",
    )


def _environment(release: Release, settings: Sequence[Setting]) -> Way:
    why = "the activation holds for the next boot only"
    returns = Return.YES
    if release.major < 13:  # noqa: PLR2004
        why += "; -t was seen in 13, so look for it in `man bectl`"
        returns = Return.UNSURE
    return Way(
        "temporary boot environment (bectl -t)",
        returns,
        why,
        (
            "bectl create tune-trial",
            "bectl mount tune-trial /mnt",
            *(_append(s, "/mnt/boot/loader.conf") for s in settings),
            "bectl umount tune-trial",
            "bectl activate -t tune-trial",
            "shutdown -r now",
            "when it runs well: bectl activate tune-trial",
        ),
        "bectl activate -T tune-trial; bectl destroy tune-trial",
    )


def _boot_config(settings: Sequence[Setting]) -> Way:
    pairs = tuple(
        f"zfsbootcfg -z POOL -n freebsd:nvstore -k {s.name} -v {s.text}"
        for s in settings
    )
    return Way(
        "one-shot variables in the pool (zfsbootcfg)",
        Return.UNSURE,
        "later nextboot(8) uses this store; in which release it began was not found,"
        " so see `man zfsbootcfg` for -k first",
        (
            *pairs,
            "zfsbootcfg -z POOL -n freebsd:nvstore -k nextboot_enable -v YES",
            "shutdown -r now",
        ),
        "nextboot -D",
    )


def _nextboot(
    release: Release, settings: Sequence[Setting], boot: Boot, kernel: str
) -> Way:
    words = (shlex.quote(f"{s.name}={s.text}") for s in settings)
    pairs = " ".join(f"-e {word}" for word in words)
    returns, why = _nextboot_returns(release, boot)
    first = f"nextboot {pairs} -k {kernel}"
    if release.major < 12:  # noqa: PLR2004
        first += "    # -e was seen in 12.1; if yours has none, use the prompt"
    return Way(
        "nextboot",
        returns,
        why,
        (first, "shutdown -r now"),
        "nextboot -D",
    )


def _nextboot_returns(release: Release, boot: Boot) -> tuple[Return, str]:
    if boot is Boot.UFS:
        why = "the loader switches nextboot.conf off before it starts the kernel"
        return Return.YES, why
    if boot is Boot.UNKNOWN:
        why = "it does on UFS; on ZFS the loader cannot switch nextboot.conf off"
        return Return.UNSURE, why
    if release.major >= 13:  # noqa: PLR2004
        why = "later nextboot keeps it in the pool; which release began was not found"
        return Return.UNSURE, why
    why = (
        "the loader cannot write to ZFS, so nextboot.conf stays on after a panic"
        " (nextboot of 12.1 warns of that)"
    )
    return Return.NO, why


def _file(settings: Sequence[Setting]) -> Way:
    return Way(
        "edit /boot/loader.conf",
        Return.NO,
        "the same settings are read at every boot",
        (
            "cp -p /boot/loader.conf /boot/loader.conf.before-tune",
            *(_append(s, "/boot/loader.conf") for s in settings),
            "shutdown -r now",
        ),
        "cp -p /boot/loader.conf.before-tune /boot/loader.conf",
    )


def _append(setting: Setting, path: str) -> str:
    line = f'{setting.name}="{setting.text}"'
    return f"echo {shlex.quote(line)} >> {path}"


def _rescue(release: Release, settings: Sequence[Setting]) -> tuple[str, ...]:
    lines = [
        "at the loader menu choose `Escape to loader prompt`",
        *(f"unset {setting.name}" for setting in settings),
        "boot",
        "then correct /boot/loader.conf before the next reboot",
        "boot -s, if the panic comes only once services start",
    ]
    if release.major >= 12:  # noqa: PLR2004
        lines.append("or choose another boot environment in the loader menu")
    lines.append(
        "without a menu: boot an installer, `zpool import -fR /mnt POOL`, edit"
        " /mnt/boot/loader.conf"
    )
    return tuple(lines)


def _linux(settings: Sequence[Setting]) -> Trial:
    live = tuple(
        f"echo {s.text} > /sys/module/zfs/parameters/{s.name}" for s in settings
    )
    words = " ".join(f"zfs.{s.name}={s.text}" for s in settings)
    running = Way(
        "the running module",
        Return.YES,
        "nothing is stored; look at c_max in arcstats, for the parameter shows the"
        " request and not the effect",
        (*live, "grep -E '^(c_max|c_min|size) ' /proc/spl/kstat/zfs/arcstats"),
        "write the old numbers back",
    )
    once = Way(
        "one boot from the boot menu",
        Return.YES,
        "a kernel command line edited in the menu is not stored",
        ("in GRUB press e, add to the linux line:", words, "Ctrl-x"),
        "nothing to undo",
    )
    stored = Way(
        "modprobe.d",
        Return.NO,
        "read at every load of the module",
        (
            *(
                f"options zfs {s.name}={s.text}    # /etc/modprobe.d/zfs.conf"
                for s in settings
            ),
            "update-initramfs -u (or dracut -f), if zfs loads from the initramfs",
            "reboot",
        ),
        "take the lines out and rebuild the initramfs",
    )
    rescue = (
        (
            "add modprobe.blacklist=zfs to the kernel command line, correct the file,"
            " rebuild the initramfs"
        ),
    )
    return Trial((running, once, stored), rescue)
