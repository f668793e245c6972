"""The lab's scenarios of faults of the data plane and of the hand that tends it.

Whatever is wrong with nft, with the rules or with the file: traffic goes on with what
the kernel has, the reason is said, and all is mended once it can be.
"""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING, Any

from standfast.director.control import ControlError
from standfast.director.lab.scenarios import Finding, single

if TYPE_CHECKING:
    from collections.abc import Callable

    from standfast.director.lab.rig import Rig
    from standfast.host.process import Process

TOOLS = ("ip", "nft", "conntrack", "sysctl")
MENDED_BAR = 5.0  # seconds: a look each 2 s, a second after a refusal, and the doing
EDITS = (
    "flush chain ip director prer",
    "add rule ip director inp counter",
    "delete element ip director m_web_0 { 3 }",
    "add element ip director guarded { 10.50.0.100 . 80 }",
)
# Without any rule the kernel answers for itself, and refuses: no load meanwhile.
GONE = "delete table ip director"
KEPT = 20


def nft_missing(rig: Rig) -> Finding:
    """The nft command vanishes while a decision is due, and comes back."""
    folder = rig.folder / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(str(shutil.which(tool)))
    single(rig, path=str(folder))
    held, load = _traffic(rig, 9)
    (folder / "nft").unlink()
    rig.ask("a", do="drain", backend="h3")
    rig.wait(lambda: _trouble(rig), "no trouble is told")
    said = _trouble(rig)
    rig.clock.sleep(2.0)
    (folder / "nft").symlink_to(str(shutil.which("nft")))
    took = _until(rig, lambda: not _trouble(rig) and "10.60.0.23" not in _slots(rig))
    failed, alive = _outcome(rig, held, load)
    return Finding(
        "nft-missing",
        f"said {said!r}; {failed} failed, {alive} of {KEPT} live; the drain was done "
        f"{took:.1f} s after nft came back",
        f"the reason is said; 0 failed, all live; within {MENDED_BAR} s",
        "nft" in said and not failed and alive == KEPT and took <= MENDED_BAR,
        {"said": said, "failed": failed, "alive": alive, "mended": took},
    )


def edited(rig: Rig) -> Finding:
    """A hand flushes, adds, deletes and guards, and takes the table away."""
    single(rig)
    good = _rules(rig)
    held = rig.job(job="long", downloads=KEPT, seconds=22)
    load = rig.job(job="load", rate=150, seconds=14)
    rig.clock.sleep(1.0)
    took, rows = [], []
    for edit in (*EDITS, GONE):
        if edit == GONE:
            rows = rig.result(load)
        rig.inside("a", "nft", *edit.split())
        took.append(_until(rig, lambda: _rules(rig) == good))
        rig.clock.sleep(0.3)
    failed = sum(bool(error) for *_, error in rows)
    alive = int(rig.result(held)["alive"].get("downloads", 0))
    return Finding(
        "edited-by-hand",
        f"{len(took)} edits mended in at most {max(took):.1f} s; {failed} new "
        f"connections failed, {alive} of {KEPT} live",
        f"each within {MENDED_BAR} s; 0 failed, all live",
        max(took) <= MENDED_BAR and not failed and alive == KEPT,
        {"mended": took, "failed": failed, "alive": alive},
    )


def wrong_file(rig: Rig) -> Finding:
    """The file is reread with an error in it, by command and by SIGHUP."""
    single(rig)
    held, load = _traffic(rig, 5)
    path, good = rig.folder / "a.toml", _rules(rig)
    text = path.read_text()
    path.write_text(text.replace("[backend.h3]", "[backend.h3]\nwieght = 3"))
    said = _refusal(rig)
    rig.kill("a", signal.SIGHUP)
    rig.wait(lambda: "refused" in _last(rig), "SIGHUP says nothing")
    same = _rules(rig) == good and rig.states("a")["h3"] == "up"
    path.write_text(text.replace("[backend.h3]", "[backend.h3]\nweight = 3"))
    rig.ask("a", do="reload")
    took = _until(rig, lambda: _rules(rig) != good)
    failed, alive = _outcome(rig, held, load)
    clear = "backend.h3.wieght" in said and "weight?" in said
    return Finding(
        "wrong-file",
        f"said {said!r}; rules {'kept' if same else 'CHANGED'}, then the mended file "
        f"in force after {took * 1000:.0f} ms; {failed} failed, {alive} of {KEPT} live",
        "key and hint are said; the old rules stand; 0 failed, all live",
        clear and same and not failed and alive == KEPT and took < 1.0,
        {"said": said, "kept": same, "failed": failed, "alive": alive},
    )


SCENARIOS: dict[str, Callable[[Rig], Finding]] = {
    "nft-missing": nft_missing,
    "edited-by-hand": edited,
    "wrong-file": wrong_file,
}


def _traffic(rig: Rig, seconds: float) -> tuple[Process, Process]:
    held = rig.job(job="long", downloads=KEPT, seconds=seconds)
    load = rig.job(job="load", rate=150, seconds=seconds)
    rig.clock.sleep(1.0)
    return held, load


def _outcome(rig: Rig, held: Process, load: Process) -> tuple[int, int]:
    """Return how many new connections failed and how many old ones live."""
    failed = sum(bool(error) for *_, error in rig.result(load))
    return failed, int(rig.result(held)["alive"].get("downloads", 0))


def _until(rig: Rig, ready: Callable[[], Any]) -> float:
    start = rig.clock.monotonic()
    rig.wait(ready, "it is not mended")
    return rig.clock.monotonic() - start


def _trouble(rig: Rig) -> str:
    return str(rig.ask("a", do="status", backends=[])["trouble"])


def _last(rig: Rig) -> str:
    return str(rig.ask("a", do="status", backends=[])["sentences"][-1][1])


def _refusal(rig: Rig) -> str:
    try:
        rig.ask("a", do="reload")
    except ControlError as error:
        return f"{error.message}; {error.hint}"
    return ""


def _slots(rig: Rig) -> str:
    line = ("nft", "list", "map", "ip", "director", "m_web_0")
    return rig.inside("a", *line)


def _rules(rig: Rig) -> str:
    """Return our table as nft lists it, but for the seal; nothing if it is gone."""
    text = rig.inside("a", "nft", "list", "ruleset")
    return text[: text.find("chain seal_")] if "chain seal_" in text else ""
