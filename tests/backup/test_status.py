"""``backup status``: pure verdicts, and the real command against real vaults."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import make_vault
from vaults import many_archives

from standfast.backup.config import Config, parse_config
from standfast.backup.metrics import write_textfile
from standfast.backup.proof import Archive
from standfast.backup.runs import DatasetRecord, JobRecord, PlaceRecord
from standfast.backup.state import Sent
from standfast.backup.status import Look, Status, chain_length, judge_status
from standfast.backup.sums import NONE, Statement
from standfast.errors import StandfastError
from standfast.grade import Grade, worst

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Made, Pool, Standfast

NOW = 1_800_000_000
DAY = 86_400
ID = "ab" * 16


def config(job: str = "", vault: str = "") -> Config:
    return parse_config(
        f'[vault.v]\naddress = "/v"\n{vault}\n[job.j]\ndatasets = ["t/a"]\n{job}\n'
    )


def archive(base: str = NONE, name: str = ID, standing: str = "committed") -> Archive:
    statement = Statement("archive", ID, name, 2, 10, 1, NONE, NOW, base, NONE)
    return Archive(name, standing, statement, "RW", {}, "", {"x": 10})


def sent(name: str = ID, age: int = DAY) -> dict[str, Sent]:
    return {name: Sent(name, 1, "committed", "", "t/a@s", NOW - age)}


def judge(
    age: float = 0, error: str = "", look: Look | None = None, **parts: str
) -> Status:
    one = DatasetRecord(success=int(NOW - age), snapshot="s", archive=ID, error=error)
    place = PlaceRecord(vault=ID, success=int(NOW - age), datasets={"t/a": one})
    record = JobRecord(places={"v": place})
    look = look or Look(ID, archives={ID: archive()}, sent=sent())
    return judge_status(config(**parts), {"j": record}, {"v": look}, NOW)


@pytest.mark.parametrize(
    ("age", "grade"),
    [
        (0, Grade.OK),
        (1.24 * DAY, Grade.OK),
        (1.26 * DAY, Grade.WARNING),
        (2.24 * DAY, Grade.WARNING),
        (2.26 * DAY, Grade.CRITICAL),
    ],
)
def test_age(age: float, grade: Grade) -> None:
    """A period and a quarter, and a period more."""
    assert grade == judge(age).grade


def test_max_age_may_be_given() -> None:
    assert Grade.OK == judge(3 * DAY, job='max_age = "4d"').grade
    assert Grade.WARNING == judge(2 * DAY, job='every = ""\nmax_age = "1d"').grade
    assert Grade.OK == judge(99 * DAY, job='every = ""').grade


def test_never_is_critical() -> None:
    nothing = judge_status(config(), {}, {}, NOW)

    assert Grade.CRITICAL == nothing.grade
    assert "it has never been run" in nothing.jobs[0][1].text


def test_a_failure_of_last_night_is_a_warning() -> None:
    status = judge(0, error="zfs send ended with status 1")

    assert Grade.WARNING == status.grade
    assert "zfs send ended with status 1" == status.rows[0].remarks[0].text


def test_a_vault_that_is_away_is_unknown_but_its_age_counts() -> None:
    away = Look(ID, error="no vault at /v", sent=sent())

    assert Grade.UNKNOWN == judge(0, look=away).grade
    assert judge(0, look=away).rows[0].chain is None
    assert Grade.CRITICAL == judge(9 * DAY, look=away).grade


@pytest.mark.parametrize(
    ("archives", "text"),
    [
        ({}, "is gone from the vault"),
        ({ID: archive(standing="refused")}, "refused"),
        ({ID: archive(base="cd" * 16)}, "lacks what it builds on"),
    ],
)
def test_what_the_vault_shows_counts(archives: dict[str, Archive], text: str) -> None:
    status = judge(0, look=Look(ID, archives=archives, sent=sent()))

    assert Grade.CRITICAL == status.grade
    assert text in status.rows[0].remarks[0].text


def test_a_damaged_archive_is_critical() -> None:
    proven = {ID: {"damaged": NOW}}
    look = Look(ID, archives={ID: archive()}, sent=sent(), proven=proven)

    assert Grade.CRITICAL == judge(0, look=look).grade


def test_verification_and_drill_have_their_ages() -> None:
    """One verification of two may be missed; a young backup needs none yet."""

    def grade(times: dict[str, int], age: int = 60 * DAY) -> Grade:
        proven = {ID: times}
        look = Look(ID, archives={ID: archive()}, sent=sent(age=age), proven=proven)
        wanted = {"vault": 'verify = "7d"', "job": 'drill_age = "30d"'}
        return judge(0, look=look, **wanted).grade

    assert Grade.WARNING == grade({})
    assert Grade.OK == grade({}, age=5 * DAY)
    assert Grade.WARNING == grade({"hash": NOW - DAY})
    assert Grade.WARNING == grade({"hash": NOW - 15 * DAY, "drill": NOW})
    assert Grade.OK == grade({"hash": NOW - 13 * DAY, "restore": NOW - 29 * DAY})
    assert Grade.WARNING == grade({"hash": NOW - DAY, "restore": NOW - 31 * DAY})
    # A listing reads no byte.
    assert Grade.WARNING == grade({"listing": NOW, "restore": NOW - 20 * DAY})


def test_the_worst_comes_first() -> None:
    assert Grade.CRITICAL == worst([Grade.OK, Grade.CRITICAL, Grade.UNKNOWN])
    assert Grade.UNKNOWN == worst([Grade.WARNING, Grade.UNKNOWN])
    assert Grade.OK == worst([])
    assert [0, 1, 2, 3] == [grade.exit_status for grade in Grade]


def test_what_a_policy_need_not_keep_is_counted() -> None:
    """Full archives of ten days; a chain counts as long as one of it is kept."""

    def days(base: str) -> dict[str, Archive]:
        found: dict[str, Archive] = {}
        before = base
        for day in range(10):
            name = f"{day:032x}"
            one = archive(before, name)
            assert one.statement is not None
            dated = dataclasses.replace(
                one.statement, time=NOW - (10 - day) * DAY, line="ab" * 16
            )
            found[name] = dataclasses.replace(one, statement=dated)
            before = name if base == "" else NONE
        return found

    def spared(archives: dict[str, Archive], vault: str) -> int | None:
        return judge(look=Look(ID, archives=archives), vault=vault).places[0].spare

    full = {k: dataclasses.replace(v) for k, v in days(NONE).items()}
    assert 6 == spared(full, "keep = { daily = 4 }")
    assert spared(full, "") is None
    # Each an increment on the one before: all are ancestors of the newest.
    assert 0 == spared(days(""), "keep = { daily = 4 }")


def test_chains() -> None:
    ids = [f"{n:032x}" for n in range(4)]
    chain = {ids[0]: archive(NONE, ids[0])}
    for before, name in itertools.pairwise(ids):
        chain[name] = archive(before, name)

    assert 4 == chain_length(ids[3], chain)
    assert 1 == chain_length(ids[0], chain)
    assert chain_length(ids[3], {k: v for k, v in chain.items() if k != ids[1]}) is None
    # Two that name each other come to no end.
    assert chain_length(ID, {ID: archive(ID)}) is None


class Watched:
    """A job that ran once, into two vaults."""

    def __init__(self, standfast: Standfast, pool: Pool, folder: Path) -> None:
        self.standfast = standfast
        self.folder = folder
        self.dataset = pool.dataset(f"status-{time.time_ns()}", {"f": b"x" * 50_000})
        self.vaults = [make_vault(standfast, folder / name) for name in ("one", "two")]
        self.path = folder / "backup.toml"
        places = "".join(
            f'[vault.{v.path.name}]\naddress = "{v.path}"\nretry_for = "1s"\n'
            for v in self.vaults
        )
        self.path.write_text(f'{places}[job.j]\ndatasets = ["{self.dataset}"]\n')
        standfast("backup", "run", "--config", self.path)

    def status(self, *words: object, ok: int) -> Any:
        command = ("backup", "status", "--config", self.path, "--json")
        return self.standfast(*command, *words, ok=ok).json()

    def text(self, ok: int) -> str:
        return self.standfast("backup", "status", "--config", self.path, ok=ok).out


@pytest.fixture
def watched(standfast: Standfast, pool: Pool, tmp_path: Path) -> Watched:
    return Watched(standfast, pool, tmp_path)


@pytest.mark.system
def test_the_command(watched: Watched) -> None:
    """Well; then verified; then a vault is away; then an archive is gone."""
    well = watched.status(ok=0)
    assert "ok" == well["state"]
    assert [1, 1] == [row["archives"] for row in well["datasets"]]
    assert [1, 1] == [row["chain_length"] for row in well["datasets"]]
    assert well["datasets"][0]["stored_bytes"] > 0
    assert well["datasets"][0]["last_verified"] is None
    first, *_ = watched.text(ok=0).splitlines()
    assert re.fullmatch(
        r"BACKUP OK: 1 datasets, 2 vaults, the oldest success \d+ s ago", first
    )

    one, two = watched.vaults
    watched.standfast("backup", "verify", one.path)
    rows = {row["vault"]: row for row in watched.status(ok=0)["datasets"]}
    assert abs(rows["one"]["last_verified"]["unix"] - time.time()) < 60
    assert rows["two"]["last_verified"] is None
    assert rows["one"]["last_proven_restorable"] is None
    watched.standfast("backup", "drill", one.path, "-i", one.key)
    rows = {row["vault"]: row for row in watched.status(ok=0)["datasets"]}
    assert abs(rows["one"]["last_proven_restorable"]["unix"] - time.time()) < 60

    away = two.path.rename(watched.folder / "away")
    found = watched.status(ok=3)
    assert "unknown" == found["state"]
    assert [False, True] == [place["reached"] for place in found["vaults"]]
    assert 0 == len(watched.status("--offline", ok=0)["vaults"][0]["remarks"])

    away.rename(two.path)
    shutil.rmtree(two.archives()[0])
    lines = watched.text(ok=2).splitlines()
    assert lines[0].startswith("BACKUP CRITICAL: ")
    assert any("missing: the whole archive" in line for line in lines)
    assert any("is gone from the vault" in line for line in lines)


@pytest.mark.system
def test_the_textfile_is_read_by_prometheus_own_parser(watched: Watched) -> None:
    from prometheus_client.parser import (  # noqa: PLC0415 - one use
        text_string_to_metric_families,
    )

    path = watched.folder / "standfast.prom"
    watched.status("--textfile", path, ok=0)
    families = {f.name: f for f in text_string_to_metric_families(path.read_text())}
    samples = families["standfast_backup_last_success_timestamp_seconds"].samples

    assert {"one", "two"} == {sample.labels["vault"] for sample in samples}
    assert {watched.dataset} == {sample.labels["dataset"] for sample in samples}
    assert all(abs(sample.value - time.time()) < 60 for sample in samples)
    assert 0o644 == path.stat().st_mode & 0o777
    assert [] == [p for p in watched.folder.iterdir() if p.name.startswith(".standf")]


def test_a_textfile_that_cannot_be_written() -> None:
    with pytest.raises(StandfastError, match="cannot write /nowhere/x: No such"):
        write_textfile("/nowhere/x", "")


def test_memory_that_cannot_be_read_is_unknown(
    standfast: Standfast, tmp_path: Path
) -> None:
    """A monitor knows four statuses."""
    path = tmp_path / "backup.toml"
    path.write_text('[vault.v]\naddress = "/v"\n[job.j]\ndatasets = ["t/a"]\n')
    words = ("backup", "status", "--config", path)
    assert "BACKUP CRITICAL" in standfast(*words, ok=2).out
    (tmp_path / "state/standfast/jobs").mkdir(parents=True)
    (tmp_path / "state/standfast/jobs/j.json").write_text("{")
    assert "BACKUP UNKNOWN" in standfast(*words, ok=3).out


def test_ten_thousand_archives(standfast: Standfast, tmp_path: Path) -> None:
    """The work is in proportion, not in its square, and less at the second look."""
    seconds: list[float] = []
    path = tmp_path / "backup.toml"
    words = ("backup", "status", "--config", path, "--json")
    found: Any = None
    for count in (1_000, 10_000):
        folder = tmp_path / str(count)
        made: Made = make_vault(standfast, folder)
        state = tmp_path / f"state/standfast/vaults/{made.id}"
        names = many_archives(folder, state, made.id, count, datasets=100)
        jobs = tmp_path / "state/standfast/jobs"
        jobs.mkdir(exist_ok=True)
        one = {n: {"success": int(time.time()), "archive": a} for n, a in names.items()}
        place = {"vault": made.id, "success": int(time.time()), "datasets": one}
        record = {"format": 1, "places": {"v": place}}
        (jobs / "j.json").write_text(json.dumps(record))
        path.write_text(
            f'[vault.v]\naddress = "{folder}"\n[job.j]\ndatasets = ["tank/**"]\n'
        )
        before = _children()
        found = standfast(*words).json()
        seconds.append(_children() - before)
        assert 100 == len(found["datasets"])
        assert count // 100 == found["datasets"][0]["chain_length"]
    before = _children()
    assert found["datasets"] == standfast(*words).json()["datasets"]
    again = _children() - before
    print(f"processor seconds for 1,000 and 10,000: {seconds}, and again: {again}")
    assert seconds[1] < 12 * seconds[0]
    assert again < 3


def _children() -> float:
    import resource  # noqa: PLC0415 - one use

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
