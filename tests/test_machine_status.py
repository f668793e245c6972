"""``standfast status``: the whole machine on one screen, the worst first."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT, free_port, make_vault

from standfast.cli.status import Part, judge_memory
from standfast.director.standing import headline, remarks
from standfast.grade import Grade
from standfast.tune import facts as facts_module

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Standfast


def parts(standfast: Standfast, *words: object, ok: int) -> dict[str, Any]:
    document = standfast("status", "--json", *words, ok=ok).json()
    assert ok == document["status"]
    return {part["part"]: part for part in document["parts"]}


def test_a_machine_without_anything_is_unknown(standfast: Standfast) -> None:
    """Fail closed: nothing to judge is not well."""
    found = parts(standfast, ok=3)

    assert {"service", "backups", "memory"} == set(found)
    assert not found["backups"]["used"]
    assert not found["service"]["used"]
    assert "nothing of standfast runs here" in standfast("status", ok=3).out


def test_backups_are_judged(standfast: Standfast, tmp_path: Path) -> None:
    """Never run is critical; the configuration lies where a user's lies."""
    vault = make_vault(standfast, tmp_path / "vault")
    home = tmp_path / ".config/standfast"
    home.mkdir(parents=True)
    path = home / "backup.toml"
    path.write_text(
        f'[vault.v]\naddress = "{vault.path}"\n[job.j]\ndatasets = ["t/a"]\n'
    )
    found = parts(standfast, ok=2)
    assert "critical" == found["backups"]["state"]
    first, second, *_ = standfast("status", ok=2).out.splitlines()
    assert first.startswith("MACHINE CRITICAL: backups critical")
    assert second.startswith("backups: ")

    path.write_text(path.read_text().replace("datasets", "dataset"))
    broken = parts(standfast, ok=2)["backups"]["remarks"][0]["text"]
    assert "job.j.dataset: there is no such key" in broken


def test_a_director_that_should_run_and_does_not(
    standfast: Standfast, tmp_path: Path
) -> None:
    """It is critical, and hides no other part."""
    path = tmp_path / "director.toml"
    path.write_text(
        f'socket = "{tmp_path}/gone.ctl"\n'
        f'[service.web]\nvirtual = ["192.0.2.1:{free_port()}"]\n'
        '[backend.h1]\naddress = "10.0.0.1"\n'
    )
    found = parts(standfast, "--director-config", path, ok=2)

    assert "critical" == found["service"]["state"]
    assert "no director answers on" in found["service"]["remarks"][0]["text"]
    assert "backups" in found


SEEN: dict[str, Any] = {
    "name": "a",
    "role": "master",
    "rank": 254,
    "trouble": "",
    "services": [{"name": "web", "open": False, "slots": {"h1": 1021}}],
    "backends": [{"name": "h1", "state": "up", "words": ""}],
    "peer": None,
}


@pytest.mark.parametrize(
    ("change", "grades"),
    [
        ({}, []),
        ({"trouble": "nft ended with status 1"}, [Grade.CRITICAL]),
        ({"services": [{"name": "w", "open": True, "slots": {}}]}, [Grade.CRITICAL]),
        (
            {"services": [{"name": "w", "open": False, "slots": {}}]},
            [Grade.CRITICAL],
        ),
        (
            {"backends": [{"name": "h1", "state": "down", "words": "timeout"}]},
            [Grade.WARNING],
        ),
        # An order is no trouble.
        ({"backends": [{"name": "h1", "state": "draining", "words": ""}]}, []),
        ({"peer": {"here": False}}, [Grade.WARNING]),
        ({"peer": {"here": True}}, []),
    ],
)
def test_what_a_director_says_of_itself(
    change: dict[str, Any], grades: list[Grade]
) -> None:
    seen = SEEN | change

    assert grades == [grade for grade, _ in remarks(seen)]
    assert headline(seen).startswith("a: master, rank 254")


@pytest.mark.parametrize(
    ("example", "grade"),
    [("article-4g", Grade.CRITICAL), ("article-2g", Grade.OK)],
)
def test_memory_is_judged_by_tune(example: str, grade: Grade) -> None:
    """The article's two machines: one that boots, one that panics."""
    text = (ROOT / "docs/examples" / f"{example}.json").read_text()
    part: Part = judge_memory(facts_module.from_json(text, name=example))

    assert part.used
    assert grade == part.grade
    assert part.document


def test_help_loads_no_area() -> None:
    """The screen imports what it asks when it asks it."""
    code = (
        "import sys; from standfast.cli import main; main(['status', '--help']);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=60
    )
    for name in done.stderr.decode().split():
        areas = ("standfast.backup", "standfast.director", "standfast.tune")
        assert not name.startswith(areas), name
