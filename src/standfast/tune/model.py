"""The values that tune passes around: facts, settings, findings, layouts, reports.

Sizes are bytes everywhere; addresses are offsets into the kernel's own address
space (0 is KERNBASE). Nothing here reads a machine or decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from standfast.errors import ExitStatus

PAGE = 4096
KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class Verdict(Enum):
    """What will become of a boot with these settings, best first."""

    BOOTS = "boots"
    THIN = "boots, thin"
    RISKY = "risks a panic later"
    HANGS = "risks a hang later"
    OUT_OF_MEMORY = "risks running out of memory"
    CANNOT_TELL = "cannot tell"
    NO_ZFS = "zfs does not load"
    PANICS = "panics at boot"

    @property
    def status(self) -> ExitStatus:
        """The exit status of a check that ends with this verdict."""
        return _STATUS[self]


_STATUS = {
    Verdict.BOOTS: ExitStatus.DONE,
    Verdict.THIN: ExitStatus.RISKY,
    Verdict.RISKY: ExitStatus.RISKY,
    Verdict.HANGS: ExitStatus.RISKY,
    Verdict.OUT_OF_MEMORY: ExitStatus.RISKY,
    Verdict.CANNOT_TELL: ExitStatus.CANNOT_TELL,
    Verdict.NO_ZFS: ExitStatus.DOES_NOT_BOOT,
    Verdict.PANICS: ExitStatus.DOES_NOT_BOOT,
}


class Level(Enum):
    """How likely trouble is once the machine runs."""

    UNKNOWN = "unknown"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Severity(Enum):
    """What a finding asks of the reader."""

    NOTE = "note"
    IGNORED = "ignored"
    WARNING = "warning"
    FATAL = "fatal"


@dataclass(frozen=True)
class Setting:
    """One name and value as a loader would hand it to the kernel.

    Attributes:
        name: the tunable, `vm.kmem_size` or `zfs_arc_max`.
        text: its value, quotes removed.
        file: where it was read, or a flag's name.
        line: line number from 1; 0 when there is none.
    """

    name: str
    text: str
    file: str = ""
    line: int = 0

    @property
    def place(self) -> str:
        """Where it stands, for a person: ``loader.conf:3``."""
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Finding:
    """One thing worth saying about the settings.

    Attributes:
        severity: what it asks of the reader.
        what: one lower-case sentence without a full stop.
        place: file and line, a tunable's name, or nothing.
        source: where the rule comes from.
    """

    severity: Severity
    what: str
    place: str = ""
    source: str = ""


@dataclass(frozen=True)
class Facts:
    """What is known of the machine and what was asked of it; None is "not known".

    Attributes:
        os: ``freebsd`` or ``linux``.
        release: as `uname -r` says on FreeBSD; the OpenZFS version on Linux.
        arch: ``i386``, ``i386-pae``, ``amd64``, ``arm64``, or Linux's machine name.
        ram: bytes installed.
        top: one past the highest usable physical address ("real memory" of the
            boot messages), when exactly known.
        kva_pages: the kernel option, or what vm.kvm_size says of it.
        image: bytes of kernel and preloaded modules.
        cpus: how many; None when not known.
        settings: what the loader hands over, in order, later ones win.
        meant: what the files mean once curly quotes are straight and no line is
            lost to another's error; None when that is the same.
        kernel_options: options and values of the kernel configuration file.
        notes: what reading the files brought up.
        live: values read from the running machine, by their own names.
        zfs: whether ZFS is meant to run there.
        origin: where the facts come from, for a person.
    """

    os: str
    release: str = ""
    arch: str = ""
    ram: int | None = None
    top: int | None = None
    kva_pages: int | None = None
    image: int | None = None
    cpus: int | None = None
    settings: tuple[Setting, ...] = ()
    meant: tuple[Setting, ...] | None = None
    kernel_options: tuple[tuple[str, str], ...] = ()
    notes: tuple[Finding, ...] = ()
    live: tuple[tuple[str, int], ...] = ()
    zfs: bool = True
    origin: str = ""

    def option(self, name: str) -> str | None:
        """Return a kernel option's value ("" for a bare one), or None."""
        return dict(self.kernel_options).get(name)

    def living(self, name: str) -> int | None:
        """Return a value read from the running machine, or None."""
        return dict(self.live).get(name)


@dataclass(frozen=True)
class Reservation:
    """A piece of kernel address space; ``start`` counts from KERNBASE."""

    name: str
    start: int
    size: int
    why: str = ""

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.start + self.size


@dataclass(frozen=True)
class Failure:
    """A request that the kernel map could not serve.

    Attributes:
        name: the reservation that failed.
        size: bytes asked.
        gap: start and size of the largest gap there was.
        message: what the console shows.
        where: after which line it shows it.
    """

    name: str
    size: int
    gap: tuple[int, int]
    message: str
    where: str


@dataclass(frozen=True)
class Layout:
    """The kernel's address space once everything at boot has been placed.

    Attributes:
        kernel: which kernel's rules made it.
        span: bytes of kernel address space.
        reservations: what was placed, by address.
        failure: the request that broke the boot, or None.
        missing: pieces that did not fit and are silently absent.
        left: bytes in the largest gap left for what comes after the boot.
        wanted: bytes that are known to be asked for after that point.
    """

    kernel: str
    span: int
    reservations: tuple[Reservation, ...]
    failure: Failure | None
    missing: tuple[str, ...]
    left: int
    wanted: int

    @property
    def gaps(self) -> tuple[tuple[int, int], ...]:
        """Start and size of all that is not reserved, by address."""
        found = []
        at = 0
        for piece in sorted(self.reservations, key=lambda piece: piece.start):
            if piece.start > at:
                found.append((at, piece.start - at))
            at = max(at, piece.end)
        if at < self.span:
            found.append((at, self.span - at))
        return tuple(found)

    @property
    def holes(self) -> tuple[tuple[int, int], ...]:
        """The gaps but the largest: what alignment lost."""
        largest = max(self.gaps, key=lambda gap: gap[1], default=None)
        return tuple(gap for gap in self.gaps if gap != largest)


@dataclass(frozen=True)
class Line:
    """One line of arithmetic: a name, an amount, and how it came about."""

    name: str
    size: int
    how: str


@dataclass(frozen=True)
class Effective:
    """The values that the kernel ends up with; None is "not known".

    Attributes:
        kmem: bytes of vm.kmem_size after defaults, limits and clamps.
        kmem_how: how it came about.
        arc_max: bytes the ARC may grow to.
        arc_min: bytes below which it is never squeezed.
        arc_how: how arc_max came about.
        prefetch: whether file prefetch is on.
    """

    kmem: int | None = None
    kmem_how: str = ""
    arc_max: int | None = None
    arc_min: int | None = None
    arc_how: str = ""
    prefetch: bool | None = None


@dataclass(frozen=True)
class Report:
    """A judgement with its reasons.

    Attributes:
        verdict: the answer.
        why: one sentence.
        level: how likely trouble is at run time.
        findings: what else there is to say, worst first.
        effective: the values the kernel ends up with.
        layouts: one layout for each assumption that was tried, most likely first.
        lines: the arithmetic of the first layout.
        limit: smallest and largest value of the largest vm.kmem_size that gets
            past the boot, over all assumptions; None where there is no such limit.
        margin: bytes on either side of a limit inside which we do not answer.
        missing: facts whose absence kept us from answering.
        assumed: what was assumed, one line each.
    """

    verdict: Verdict
    why: str
    level: Level = Level.UNKNOWN
    findings: tuple[Finding, ...] = ()
    effective: Effective = field(default_factory=Effective)
    layouts: tuple[Layout, ...] = ()
    lines: tuple[Line, ...] = ()
    limit: tuple[int, int] | None = None
    margin: int = 0
    missing: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


def mib(size: float) -> str:
    """Return ``1536 MiB`` or ``81.5 MiB``; tune counts in MiB throughout."""
    return f"{size / MIB:.1f}".removesuffix(".0") + " MiB"
