"""``backup run``: real pools, real vaults, by the real command."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Standfast, incompressible, make_vault, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Pool, Ran

pytestmark = pytest.mark.system


class Setup:
    """Datasets of a test's own, two vaults, and a configuration."""

    def __init__(self, standfast: Standfast, pool: Pool, folder: Path) -> None:
        self.standfast = standfast
        self.pool = pool
        self.folder = folder
        self.name = f"run-{os.urandom(3).hex()}"
        self.root = f"{pool.name}/{self.name}"
        self.one = make_vault(standfast, folder / "one", "--segment-size", "64k")
        self.two = make_vault(standfast, folder / "two", "--segment-size", "64k")
        self.path = folder / "backup.toml"
        for name in ("", "/a", "/a/cache", "/b"):
            pool.zfs("create", self.root + name)
            self.write(name, "file", name.encode() * 30_000)

    def write(self, dataset: str, name: str, data: bytes) -> None:
        (self.pool.mount / f"{self.name}{dataset}" / name).write_bytes(data)

    def configure(self, job: str = "", rest: str = "", vaults: str = "") -> None:
        vaults = vaults or (
            f'[vault.one]\naddress = "{self.one.path}"\nretry_for = "1s"\n'
            f'[vault.two]\naddress = "{self.two.path}"\nretry_for = "1s"\n'
        )
        self.path.write_text(
            f'{vaults}\n[job.home]\ndatasets = ["{self.root}"]\nrecursive = true\n'
            f'exclude = ["{self.root}/*/cache"]\n{job}\n{rest}\n'
        )

    def run(self, *words: object, ok: int | None = 0) -> Ran:
        return self.standfast(
            "backup", "run", "--config", self.path, *words, ok=ok, timeout=120
        )

    def document(self, *words: object, ok: int | None = 0) -> dict[str, Any]:
        document: dict[str, Any] = self.run("--json", *words, ok=ok).json()
        return document

    def snapshots(self, dataset: str = "") -> list[str]:
        words = ("list", "-Hr", "-t", "snapshot", "-o", "name", "-s", "creation")
        found = self.pool.zfs(*words, self.root + dataset).split()
        return [s for s in found if s.startswith(f"{self.root}{dataset}@")]

    def record(self, job: str = "home") -> dict[str, Any]:
        path = self.folder / f"state/standfast/jobs/{job}.json"
        document: dict[str, Any] = json.loads(path.read_text())
        return document


@pytest.fixture
def setup(standfast: Standfast, pool: Pool, tmp_path: Path) -> Setup:
    # The pool goes with the session, and with it what we leave here.
    return Setup(standfast, pool, tmp_path)


def states(document: dict[str, Any]) -> dict[str, dict[str, str]]:
    """vault -> dataset's last part -> state"""
    (job,) = document["jobs"]
    return {
        place["vault"]: {
            row["dataset"].rpartition("/")[2]: row["state"] for row in place["datasets"]
        }
        for place in job["vaults"]
    }


def test_a_night_and_the_next(setup: Setup) -> None:
    """All datasets, of one moment, to both vaults; the next night is incremental."""
    setup.configure()
    first = setup.document()
    name = setup.name

    assert {"one", "two"} == set(states(first))
    assert {name: "sent", "a": "sent", "b": "sent"} == states(first)["one"]
    assert [] == setup.snapshots("/a/cache")
    (snapshot,) = {n.rpartition("@")[2] for n in setup.snapshots()}
    assert [f"{setup.root}/a@{snapshot}"] == setup.snapshots("/a")
    whys = [r["why"] for r in first["jobs"][0]["vaults"][0]["datasets"]]
    assert all(why.startswith("full: ") for why in whys)

    # The same night again: nothing is due, and nothing is done.
    again = setup.document()
    assert not again["jobs"][0]["due"]
    assert "done " in again["jobs"][0]["why"]

    time.sleep(1.1)
    setup.write("/a", "more", incompressible(100_000))
    second = setup.document("--force")
    whys = [r["why"] for r in second["jobs"][0]["vaults"][0]["datasets"]]
    assert all(why.startswith("incremental: ") for why in whys)
    assert 2 == len(setup.snapshots("/a"))
    for vault in (setup.one, setup.two):
        setup.standfast("backup", "verify", vault.path)
        assert 6 == len(vault.archives())
    assert not setup.record()["failing"]


def test_a_new_chain_begins_after_so_many_archives(setup: Setup) -> None:
    """With ``full_every = 2`` every second archive is a full one."""
    setup.configure(job="full_every = 2")
    whys: list[str] = []
    for _ in range(4):
        rows = setup.document("--force")["jobs"][0]["vaults"][0]["datasets"]
        whys += [row["why"] for row in rows if row["dataset"] == f"{setup.root}/a"]
        time.sleep(1.1)

    assert ["full", "incremental", "full", "incremental"] == [
        why.partition(":")[0] for why in whys
    ]


def test_what_came_back_is_what_was_there(setup: Setup) -> None:
    setup.configure()
    setup.run()
    (snapshot,) = setup.snapshots("/a")
    target = f"{setup.pool.name}/{setup.name}-back"
    setup.standfast(
        "backup", "restore", setup.two.path, snapshot, target, "-i", setup.two.key
    )
    back = setup.pool.tree(f"{setup.name}-back")

    assert {"file": b"/a" * 30_000} == back


def test_a_vault_that_is_away_stops_no_other(setup: Setup) -> None:
    """Partly done; when it is back, the same night's snapshots go there too."""
    setup.configure()
    away = setup.two.path.rename(setup.folder / "away")
    ran = setup.document(ok=3)

    assert {"sent"} == set(states(ran)["one"].values())
    assert "no vault at" in ran["jobs"][0]["vaults"][1]["error"]
    assert setup.record()["failing"]

    away.rename(setup.two.path)
    back = setup.document()
    assert ["two"] == [place["vault"] for place in back["jobs"][0]["vaults"]]
    assert {"sent"} == set(states(back)["two"].values())
    assert 0 == back["jobs"][0]["snapshots_made"]
    assert 1 == len(setup.snapshots("/a"))
    assert not setup.record()["failing"]


def test_all_vaults_away(setup: Setup) -> None:
    """Nothing was sent: the status is the failure's own. Snapshots are made."""
    setup.configure()
    setup.one.path.rename(setup.folder / "away-one")
    setup.two.path.rename(setup.folder / "away-two")
    setup.run(ok=10)

    assert 1 == len(setup.snapshots("/a"))


def test_a_full_vault_stops_no_other(setup: Setup) -> None:
    """A place that takes no more bytes fails once, not once for every dataset."""
    setup.configure()
    (setup.two.path / "archives").write_text("no folder")
    ran = setup.document(ok=3)

    assert {"sent"} == set(states(ran)["one"].values())
    assert ran["jobs"][0]["vaults"][1]["error"]
    assert len(ran["jobs"][0]["vaults"][1]["datasets"]) <= 1


def test_a_dataset_that_is_gone_stops_no_other(setup: Setup) -> None:
    setup.configure()
    text = setup.path.read_text()
    both = f'datasets = ["{setup.root}", "{setup.root}-gone"]'
    setup.path.write_text(text.replace(f'datasets = ["{setup.root}"]', both))
    ran = setup.document(ok=3)

    assert {"sent"} == set(states(ran)["one"].values())
    assert f"there is no dataset {setup.root}-gone" == ran["jobs"][0]["error"]


def test_dry_run_says_it_and_does_none_of_it(setup: Setup) -> None:
    setup.configure(rest="[job.home.keep]\nlast = 1\n")
    ran = setup.document("--dry-run")

    assert ran["dry_run"]
    assert {"planned"} == set(states(ran)["one"].values())
    assert 3 == ran["jobs"][0]["snapshots_made"]
    assert [] == setup.snapshots()
    assert not (setup.one.path / "archives").exists()
    assert not (setup.folder / "state/standfast/jobs").exists()

    setup.run()
    time.sleep(1.1)
    text = setup.run("--dry-run", "--force").out
    assert "incremental: the vault has" in text
    assert 1 == len(setup.snapshots())


def test_hooks_run_around_it(setup: Setup) -> None:
    """The second runs also after a failure; the first can stop everything."""
    log = setup.folder / "log"
    hook = (
        f'before = ["/bin/sh", "-c", "echo before $STANDFAST_JOB >> {log}"]\n'
        'after = ["/bin/sh", "-c", '
        f'"echo after $STANDFAST_RESULT $STANDFAST_SNAPSHOT >> {log}"]\n'
    )
    setup.configure(job=hook)
    setup.run()
    (snapshot,) = {n.rpartition("@")[2] for n in setup.snapshots()}
    assert f"before home\nafter done {snapshot}\n" == log.read_text()

    failing = hook.replace("echo before", "echo table is locked >&2; exit 7; echo")
    setup.configure(job=failing)
    ran = setup.document("--force", ok=1)
    assert "ended with status 7: table is locked" in ran["jobs"][0]["error"]
    assert "after failed\n" in log.read_text()
    assert 1 == len(setup.snapshots())


def test_a_hook_that_hangs_is_ended(setup: Setup) -> None:
    setup.configure(job='before = ["/bin/sleep", "600"]\nhook_timeout = "300ms"')
    start = time.monotonic()
    ran = setup.run(ok=1)

    assert time.monotonic() - start < 30
    assert "took longer than 0.3 s" in ran.out


def test_own_snapshots_are_thinned_and_no_others(setup: Setup) -> None:
    """Never the newest, never what a vault needs, never one with another's name."""
    setup.configure(rest="[job.home.keep]\nlast = 1\nminimum = 1\n")
    for day in ("01", "02", "03"):
        setup.pool.zfs("snapshot", "-r", f"{setup.root}@home-2026-01-{day}-000000")
    setup.pool.zfs("snapshot", f"{setup.root}@keep-me-2026-01-01-000000")
    setup.pool.zfs("snapshot", f"{setup.root}@home-by-hand")
    ran = setup.document()

    gone = {name.partition("@")[2] for name in ran["jobs"][0]["destroyed"]}
    assert {f"home-2026-01-{day}-000000" for day in ("01", "02", "03")} == gone
    left = [name.partition("@")[2] for name in setup.snapshots()]
    assert {"keep-me-2026-01-01-000000", "home-by-hand"} < set(left)
    # What is excluded is none of the job's.
    assert 3 == len(setup.snapshots("/a/cache"))


def test_the_base_of_a_vault_that_is_away_stays(setup: Setup) -> None:
    """However old it has become; when the vault is back it takes an increment."""
    setup.configure(rest="[job.home.keep]\nlast = 1\n")
    setup.run()
    (first,) = setup.snapshots()
    # A snapshot's age is told by its name.
    old = f"{setup.root}@home-2026-01-01-000000"
    setup.pool.zfs("rename", "-r", first, old)
    away = setup.two.path.rename(setup.folder / "away")
    ran = setup.document("--force", ok=3)
    assert [] == ran["jobs"][0]["destroyed"]
    assert [] == [note for note in ran["jobs"][0]["notes"] if "stays" in note]
    assert old in setup.snapshots()

    away.rename(setup.two.path)
    time.sleep(1.1)
    back = setup.document("--force")
    rows = back["jobs"][0]["vaults"][1]["datasets"]
    assert all("home-2026-01-01-000000 as archive" in row["why"] for row in rows)
    time.sleep(1.1)
    last = setup.document("--force")
    assert old in last["jobs"][0]["destroyed"]


def test_two_runs_of_a_job_do_not_meet(setup: Setup) -> None:
    """The second says who holds it; a holder that is killed leaves nothing locked."""
    pid = setup.folder / "pid"
    hook = f'["/bin/sh", "-c", "echo $$ > {pid}; exec sleep 60"]'
    setup.configure(job=f"before = {hook}")
    holder = setup.standfast.start(
        "backup", "run", "--config", setup.path, start_new_session=True
    )
    lock = setup.folder / "state/standfast/jobs/home.lock"
    try:
        wait_until(lambda: pid.exists() and not _free(lock), "the job to be locked")
        ran = setup.run(ok=11)
        assert "is being run by another process" in ran.out
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    wait_until(lambda: _free(lock), "the lock to be free")
    os.kill(int(pid.read_text()), signal.SIGTERM)
    setup.configure()
    assert {"sent"} == set(states(setup.document())["one"].values())


def _free(lock: Path) -> bool:
    with lock.open("r+") as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def test_killed_in_the_middle_the_next_run_goes_on(setup: Setup) -> None:
    """What was committed is not sent again, and the same snapshots are used."""
    setup.write("/b", "large", incompressible(3_000_000))
    text = 'bandwidth = "1M"\n'
    setup.configure()
    slow = setup.path.read_text().replace('retry_for = "1s"\n', f"{text}", 1)
    setup.path.write_text(slow)
    running = setup.standfast.start("backup", "run", "--config", setup.path)
    archives = setup.one.path / "archives"
    try:
        wait_until(lambda: len(list(archives.glob("*"))) >= 3, "the third archive")
        time.sleep(0.5)
    finally:
        running.send_signal(signal.SIGKILL)
        running.communicate()

    setup.configure()
    ran = setup.document()
    assert 0 == ran["jobs"][0]["snapshots_made"]
    found = states(ran)["one"]
    assert "current" == found["a"]
    assert "sent" == found["b"]
    assert {"sent"} == set(states(ran)["two"].values())
    setup.standfast("backup", "verify", setup.one.path)


def test_interrupted_what_was_frozen_is_thawed(setup: Setup) -> None:
    """Ctrl-C in the middle of a send: status 130 soon, and the hook after it runs."""
    setup.write("/b", "large", incompressible(3_000_000))
    log = setup.folder / "log"
    after = f'["/bin/sh", "-c", "echo $STANDFAST_RESULT > {log}"]'
    setup.configure(job=f"after = {after}")
    text = setup.path.read_text().replace('retry_for = "1s"', 'bandwidth = "200k"')
    setup.path.write_text(text)
    running = setup.standfast.start("backup", "run", "--config", setup.path)
    archives = setup.one.path / "archives"
    try:
        wait_until(lambda: len(list(archives.glob("*"))) >= 1, "the first archive")
        start = time.monotonic()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
        running.communicate()

    assert 130 == running.returncode, err
    assert time.monotonic() - start < 20
    assert "interrupted\n" == log.read_text()
    assert setup.record()["failing"]
    setup.configure()
    assert {"one", "two"} == set(states(setup.document()))


def test_telling_of_failure_and_of_the_end_of_it(setup: Setup) -> None:
    """By default: each failure, the first success after it, and then silence."""
    told = setup.folder / "told"
    notify = (
        f'[notify]\ncommand = ["/bin/sh", "-c", "echo $STANDFAST_EVENT >> {told}"]\n'
    )
    setup.configure(rest=notify)
    away = setup.two.path.rename(setup.folder / "away")
    setup.run(ok=3)
    assert "failure\n" == told.read_text()
    away.rename(setup.two.path)
    setup.run()
    assert "failure\nrecovery\n" == told.read_text()
    time.sleep(1.1)
    setup.run("--force")
    setup.run()
    assert "failure\nrecovery\n" == told.read_text()


def test_a_vault_is_verified_when_its_turn_has_come(setup: Setup) -> None:
    vaults = f'[vault.one]\naddress = "{setup.one.path}"\nverify = "7d"\n'
    setup.configure(vaults=vaults)
    first = setup.document()
    assert [True] == [v["ok"] for v in first["verified"]]
    assert [] == setup.document()["verified"]

    proven = setup.folder / f"state/standfast/vaults/{setup.one.id}/proven.json"
    document = json.loads(proven.read_text())
    document["whole"] = {"fetch": int(time.time()) - 8 * 86400}
    proven.write_text(json.dumps(document))
    victim = next(setup.one.path.rglob("00000000.zst.age"))
    victim.write_bytes(b"x" * victim.stat().st_size)
    ran = setup.run(ok=13)
    assert "NOT WHOLE" in ran.out


def test_each_run_audits_some_objects(setup: Setup) -> None:
    """Well, then with an object whose bytes are gone."""
    vaults = f'[vault.one]\naddress = "{setup.one.path}"\naudit = 4\n'
    setup.configure(vaults=vaults)
    (first,) = setup.document()["verified"]
    assert (True, "audited") == (first["ok"], first["kind"])
    assert [] == setup.document()["verified"]

    # All of them, since the far end is asked for a few that were drawn.
    for victim in (setup.one.path / "archives").rglob("*.age"):
        victim.write_bytes(b"x" * victim.stat().st_size)
    time.sleep(1.1)
    ran = setup.run("--force", ok=3)
    assert "NOT WHOLE: " in ran.out


def test_a_snapshot_of_others_may_be_what_goes_out(setup: Setup) -> None:
    """With ``snapshot = false`` the newest there is, whoever made it."""
    setup.configure(job="snapshot = false")
    setup.pool.zfs("snapshot", "-r", f"{setup.root}@by-hand")
    ran = setup.document()

    assert {"sent"} == set(states(ran)["one"].values())
    assert 1 == len(setup.snapshots("/a"))
    assert {"current"} == set(states(setup.document("--force"))["one"].values())


def test_mistakes(setup: Setup) -> None:
    """One line, a hint, status 2."""
    setup.configure()
    assert "there is no job hom" in setup.run("hom", ok=2).err
    gone = setup.standfast("backup", "run", "--config", "/nowhere", ok=2)
    assert "cannot read /nowhere: no such file" in gone.err
    setup.path.chmod(0o666)
    assert "others can write" in setup.run(ok=2).err


def test_check_config(setup: Setup) -> None:
    setup.configure()
    checked = setup.standfast("backup", "check-config", "--config", setup.path).out
    assert f"{setup.path} is good: 2 vaults, 1 jobs" in checked
    assert "due: it has never succeeded" in checked

    setup.path.write_text(setup.path.read_text().replace("recursive", "recursiv"))
    bad = setup.standfast("backup", "check-config", "--config", setup.path, ok=2)
    assert "job.home.recursiv: there is no such key" in bad.err
    assert "did you mean recursive?" in bad.err


def test_an_unknown_vault_is_pinned_by_its_recipient(setup: Setup) -> None:
    """A machine that made none of it sends there once the owner names the key."""
    other = setup.standfast.elsewhere()
    vaults = f'[vault.one]\naddress = "{setup.one.path}"\n'
    setup.configure(vaults=vaults)
    words = ("backup", "run", "--config", setup.path)
    refused = other(*words, ok=14)
    assert "does not know the vault" in refused.out
    setup.configure(vaults=vaults + f'recipient = "{setup.one.recipient}"\n')
    other(*words)
    assert 3 == len(setup.one.archives())


def test_the_number_of_zfs_commands_is_constant(setup: Setup) -> None:
    """With nothing to send it is the same for four datasets and for twenty more."""
    log = setup.folder / "log"
    programs = setup.folder / "bin"
    programs.mkdir()
    wrapper = programs / "zfs"
    real = shutil.which("zfs")
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    path = f"{programs}:{setup.standfast.env['PATH']}"
    counting = Standfast(setup.folder, setup.standfast.env | {"PATH": path})
    setup.configure(job="snapshot = false")

    def counted() -> int:
        log.unlink(missing_ok=True)
        words = ("backup", "run", "--config", setup.path, "--force", "--json")
        ran = counting(*words).json()
        assert {"current"} == set(states(ran)["one"].values())
        return len(log.read_text().splitlines())

    setup.pool.zfs("snapshot", "-r", f"{setup.root}@one")
    setup.run()
    few = counted()
    for number in range(20):
        setup.pool.zfs("create", f"{setup.root}/b/{number}")
    setup.pool.zfs("snapshot", "-r", f"{setup.root}@two")
    setup.run("--force")

    assert few == counted() <= 8
