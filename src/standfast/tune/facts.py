"""Where facts come from: flags, a saved file, or a live machine through a Host.

A live machine is only read, with `sysctl`, `cat` and `uname`; nothing is installed
there. What a machine does not say stays unknown. The saved file is JSON; sizes are
bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from standfast.errors import UsageError
from standfast.tune import kernelconf, loaderconf, modprobe
from standfast.tune.model import MIB, Facts, Finding, Setting, Severity
from standfast.tune.release import parse_release
from standfast.tune.rules.kva_span import ENTRY, multiple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_ALIASES = {"x86_64": "amd64", "x64": "amd64", "aarch64": "arm64", "i686": "i386"}
FORMAT = "standfast-tune-facts/1"


@dataclass(frozen=True)
class Sources:
    """Texts of configuration files, each with the name it goes by."""

    loader: Sequence[tuple[str, str]] = ()
    kernel: Sequence[tuple[str, str]] = ()
    modprobe: Sequence[tuple[str, str]] = ()
    sysctl: Sequence[tuple[str, str]] = ()


def nothing(_name: str) -> str | None:
    """Return no text: for includes that cannot be looked up."""
    return None


def with_files(
    facts: Facts, sources: Sources, *, include: Callable[[str], str | None] = nothing
) -> Facts:
    """Return the facts with the settings and options of those files added."""
    facts = _with_kernel(facts, sources.kernel, include)
    release = parse_release(facts.release)
    loader = loaderconf.loader_of(release)
    for name, text in sources.loader:
        parsed = loaderconf.parse(text, file=name, loader=loader)
        meant = facts.settings if facts.meant is None else facts.meant
        facts = replace(
            facts,
            settings=facts.settings + parsed.settings,
            meant=meant + parsed.meant,
            notes=facts.notes + parsed.notes,
        )
    for name, text in sources.modprobe:
        options = modprobe.parse(text, file=name)
        facts = _add(facts, options.settings, options.notes)
    for name, text in sources.sysctl:
        late = modprobe.parse_sysctl(text, file=name, release=release)
        facts = _add(facts, late.settings, late.notes)
    return replace(facts, notes=facts.notes + _overrides(facts.settings))


def _add(
    facts: Facts, settings: tuple[Setting, ...], notes: tuple[Finding, ...]
) -> Facts:
    meant = None if facts.meant is None else facts.meant + settings
    return replace(
        facts,
        settings=facts.settings + settings,
        meant=meant,
        notes=facts.notes + notes,
    )


def _overrides(settings: tuple[Setting, ...]) -> tuple[Finding, ...]:
    """Say which file's setting another file's replaces."""
    last = {setting.name: setting for setting in settings}
    return tuple(
        Finding(
            Severity.WARNING,
            f"{setting.name} is overridden by {last[setting.name].place}",
            setting.place,
        )
        for setting in settings
        if last[setting.name].file != setting.file
    )


def _with_kernel(
    facts: Facts,
    files: Sequence[tuple[str, str]],
    include: Callable[[str], str | None],
) -> Facts:
    for name, text in files:
        config = kernelconf.parse(text, file=name, include=include)
        options = dict(facts.kernel_options) | dict(config.options)
        options.setdefault("ident", name)
        facts = replace(
            facts,
            kernel_options=tuple(options.items()),
            notes=facts.notes + config.notes,
        )
        if "PAE" in options and facts.arch == "i386":
            facts = replace(facts, arch="i386-pae")
        pages = kernelconf.integer(options.get("KVA_PAGES", ""))
        if pages is not None and facts.kva_pages is None:
            facts = replace(facts, kva_pages=pages)
    return facts


def check(facts: Facts) -> Facts:
    """Return the facts under FreeBSD's own names, or say what cannot be.

    Raises:
        UsageError: a value is impossible.
    """
    if facts.os not in {"freebsd", "linux"}:
        raise UsageError(f"not an operating system that tune knows: {facts.os}")
    if facts.os == "freebsd":
        facts = replace(facts, arch=_ALIASES.get(facts.arch.lower(), facts.arch))
    for name in ("ram", "top", "image", "kva_pages", "cpus"):
        value = getattr(facts, name)
        if value is not None and value <= 0:
            raise UsageError(f"{name} must be more than nothing: {value}")
    step = multiple(facts.arch) if facts.arch in ENTRY else 1
    if facts.kva_pages is not None and facts.kva_pages % step:
        raise UsageError(
            f"no kernel can be built with KVA_PAGES={facts.kva_pages}",
            hint=f"it must be a multiple of {step}",
        )
    if (
        facts.kva_pages is not None
        and facts.arch in ENTRY
        and (facts.kva_pages * ENTRY[facts.arch] >= 4 * 1024 * MIB)
    ):
        raise UsageError(f"KVA_PAGES leaves no user space: {facts.kva_pages}")
    if facts.ram is not None and facts.ram < 16 * MIB:
        raise UsageError(
            f"not enough RAM to judge: {facts.ram} bytes", hint="write --ram 4G"
        )
    return facts


def to_json(facts: Facts) -> dict[str, Any]:
    """Return the facts as what `tune facts` saves."""
    return {
        "format": FORMAT,
        "os": facts.os,
        "release": facts.release,
        "arch": facts.arch,
        "ram": facts.ram,
        "top": facts.top,
        "kva_pages": facts.kva_pages,
        "image": facts.image,
        "cpus": facts.cpus,
        "zfs": facts.zfs,
        "settings": [_setting_json(s) for s in facts.settings],
        "meant": None
        if facts.meant is None
        else [_setting_json(s) for s in facts.meant],
        "kernel_options": dict(facts.kernel_options),
        "notes": [
            {
                "severity": n.severity.value,
                "what": n.what,
                "place": n.place,
                "source": n.source,
            }
            for n in facts.notes
        ],
        "live": dict(facts.live),
        "origin": facts.origin,
    }


def _setting_json(setting: Setting) -> dict[str, Any]:
    return {
        "name": setting.name,
        "value": setting.text,
        "file": setting.file,
        "line": setting.line,
    }


def from_json(text: str, *, name: str) -> Facts:
    """Return the facts of a saved file.

    Raises:
        UsageError: it is not such a file.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UsageError(f"not a facts file: {name}: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UsageError(
            f"not a facts file: {name}", hint=f"it must say `format`: `{FORMAT}`"
        )
    try:
        return check(_from_dict(data, name))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"facts file is damaged: {name}: {error}") from None


def _from_dict(data: dict[str, Any], name: str) -> Facts:
    meant = data.get("meant")
    return Facts(
        os=str(data["os"]),
        release=str(data.get("release") or ""),
        arch=str(data.get("arch") or ""),
        ram=_whole(data, "ram"),
        top=_whole(data, "top"),
        kva_pages=_whole(data, "kva_pages"),
        image=_whole(data, "image"),
        cpus=_whole(data, "cpus"),
        settings=_settings(data.get("settings", ())),
        meant=None if meant is None else _settings(meant),
        kernel_options=tuple(
            (str(k), str(v)) for k, v in data.get("kernel_options", {}).items()
        ),
        notes=tuple(
            Finding(Severity(n["severity"]), n["what"], n["place"], n["source"])
            for n in data.get("notes", ())
        ),
        live=tuple((str(k), int(v)) for k, v in data.get("live", {}).items()),
        zfs=bool(data.get("zfs", True)),
        origin=str(data.get("origin") or name),
    )


def _whole(data: dict[str, Any], key: str) -> int | None:
    value = data.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{key} is no whole number")
    return value


def _settings(items: Iterable[dict[str, Any]]) -> tuple[Setting, ...]:
    return tuple(
        Setting(
            str(item["name"]),
            str(item["value"]),
            str(item.get("file", "")),
            int(item.get("line", 0)),
        )
        for item in items
    )
