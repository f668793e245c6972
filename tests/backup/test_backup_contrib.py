"""What an administrator copies to have it run each night."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import COMMAND, ROOT, need

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Pool, Standfast

CONTRIB = ROOT / "contrib"
SYSTEMD = [CONTRIB / "systemd" / f"standfast-backup.{k}" for k in ("service", "timer")]
RC_SCRIPT = CONTRIB / "freebsd" / "standfast_backup"
PERIODIC = sorted((CONTRIB / "freebsd" / "periodic" / "daily").iterdir())
CRON = CONTRIB / "cron.d" / "standfast-backup"


def test_systemd_reads_the_units() -> None:
    """No unknown setting; the timer's times are times."""
    need("systemd-analyze")
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, SYSTEMD)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    complaints = [
        line
        for line in done.stderr.splitlines()
        if "standfast-backup" in line and "is not executable" not in line
    ]
    assert [] == complaints
    timer = SYSTEMD[1].read_text()
    calendar = re.search(r"OnCalendar=(.*)", timer)
    assert calendar is not None
    subprocess.run(
        ["systemd-analyze", "calendar", calendar[1]], check=True, capture_output=True
    )
    # A machine that was off at that hour catches up.
    assert "Persistent=true" in timer


@pytest.mark.parametrize("path", [RC_SCRIPT, *PERIODIC], ids=lambda path: path.name)
def test_the_scripts_are_sh(path: Path) -> None:
    need("sh")
    subprocess.run(["sh", "-n", str(path)], check=True, timeout=10)

    assert path.read_text().startswith("#!/bin/sh\n")
    assert path.stat().st_mode & 0o111


def test_the_rc_script_follows_freebsd_s_form() -> None:
    """rcorder's lines, a variable that enables it, and the paths of ports."""
    text = RC_SCRIPT.read_text()

    assert re.search(r"^# PROVIDE: standfast_backup$", text, re.MULTILINE)
    assert re.search(r"^# REQUIRE: .*NETWORKING", text, re.MULTILINE)
    assert ': "${standfast_backup_enable:=NO}"' in text
    assert "/usr/local/etc/standfast/backup.toml" in text
    assert text.rstrip().endswith('run_rc_command "$1"')


@pytest.mark.parametrize(
    "path", [SYSTEMD[0], CRON, RC_SCRIPT, PERIODIC[1]], ids=lambda path: path.name
)
def test_what_they_start_exists(path: Path, standfast: Standfast) -> None:
    """Every command line that they give is one that the parser takes."""
    text = path.read_text().replace("\\\n", " ")
    started = re.findall(r"backup (run|check-config|status)\b([^\n\"|]*)", text)
    assert started
    for command, rest in started:
        page = standfast("backup", command, "--help").out
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in page, (path.name, command, option)


def test_cron_s_line_has_its_seven_fields() -> None:
    (line,) = [ln for ln in CRON.read_text().splitlines() if ln[:1].isdigit()]
    minute, hour, day, month, weekday, user, program, *_ = line.split()

    assert 0 <= int(minute) < 60
    assert ["*"] * 4 == [hour, day, month, weekday]
    assert ("root", "/usr/local/bin/standfast") == (user, program)


def wrapper(standfast: Standfast) -> Path:
    """The real command as one program."""
    path = standfast.folder / "program"
    path.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    path.chmod(0o755)
    return path


def periodic(standfast: Standfast, path: Path, **variables: object) -> tuple[int, str]:
    """Run a script of periodic(8) as it would, on a machine without its defaults."""
    environment = standfast.env | {k: str(v) for k, v in variables.items()}
    done = subprocess.run(
        ["sh", str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert "" == done.stderr
    return done.returncode, done.stdout


@pytest.mark.system
def test_a_night_by_periodic(standfast: Standfast, pool: Pool, tmp_path: Path) -> None:
    """Silent unless enabled; what is due is done; a failure is one of periodic's."""
    run, status = PERIODIC[1], PERIODIC[0]
    dataset = pool.dataset(f"periodic-{os.getpid()}", {"f": b"x" * 1000})
    vault = tmp_path / "vault"
    standfast("backup", "init", vault, "--new-identity", tmp_path / "key")
    config = tmp_path / "backup.toml"
    program = wrapper(standfast)
    given = {
        "daily_standfast_backup_program": program,
        "daily_standfast_backup_config": config,
    }
    assert (0, "") == periodic(standfast, run, **given)
    enabled = {**given, "daily_standfast_backup_enable": "YES"}
    code, out = periodic(standfast, run, **enabled)
    assert 2 == code
    assert "cannot be read" in out
    config.write_text(
        f'[vault.v]\naddress = "{vault}"\nretry_for = "1s"\n'
        f'[job.j]\ndatasets = ["{dataset}"]\n'
    )
    code, out = periodic(standfast, run, **enabled)
    assert 0 == code
    assert f"sent {dataset}@j-" in out

    shown = {
        "daily_status_standfast_enable": "YES",
        "daily_status_standfast_program": program,
        "daily_status_standfast_flags": f"--config {config}",
    }
    _, out = periodic(standfast, status, **shown)
    assert "backups ok" in out
    shutil.rmtree(vault)
    code, out = periodic(standfast, status, **shown)
    assert 3 == code
    assert "unknown: vault v: no vault at" in out


@pytest.mark.system
def test_cron_hears_of_failures_only(
    standfast: Standfast, pool: Pool, tmp_path: Path
) -> None:
    """What ``--quiet`` prints becomes a mail."""
    dataset = pool.dataset(f"cron-{os.getpid()}", {"f": b"x" * 1000})
    vault = tmp_path / "vault"
    standfast("backup", "init", vault, "--new-identity", tmp_path / "key")
    config = tmp_path / "backup.toml"
    config.write_text(
        f'[vault.v]\naddress = "{vault}"\nretry_for = "1s"\n'
        f'[job.j]\ndatasets = ["{dataset}"]\n'
    )
    words = ("backup", "run", "--quiet", "--config", config)
    good = standfast(*words)
    assert ("", "") == (good.out, good.err)

    shutil.rmtree(vault)
    bad = standfast(*words, "--force", ok=10)
    assert "" == bad.out
    assert f"standfast: job j to v: no vault at {vault}" in bad.err


# What stands in for init: enables for real, and lets the timer's moment come at once.
SYSTEMCTL = """#!/bin/sh
[ "$1 $2" = "enable --now" ] || exit 64
{systemctl} --quiet --root=/ enable "$3" || exit 1
unit=/etc/systemd/system/$(basename "$3" .timer).service
eval "$(sed -n 's/^ExecStart=//p' "$unit")"
"""
STAGE = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/usb
mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work /etc
mount -t tmpfs tmpfs /usr/local/bin
rm -f /etc/systemd/system/standfast-backup.* /etc/standfast/backup.toml
set -x
"""


def nightly_lines() -> str:
    """README's block as sh reads it."""
    text = (ROOT / "README.md").read_text()
    block = text.partition("## Every night")[2].partition("```console\n")[2]
    return re.sub(r"^# ", "", block.partition("```")[0], flags=re.MULTILINE)


@pytest.mark.system
def test_readme_s_nightly_set_up(
    standfast: Standfast, pool: Pool, tmp_path: Path
) -> None:
    """Its ten lines work as they stand, in a view of the machine of their own.

    Only the pool's name is changed, and init is not there to be asked.
    """
    need("unshare", "systemctl")
    if os.geteuid() != 0:
        pytest.skip("it needs root, to write below /etc in a view of its own")
    lines = nightly_lines()
    assert 10 == len(lines.strip().splitlines())
    home = pool.dataset(f"nightly-{os.getpid()}", {"f": b"x" * 1000})
    pool.dataset(f"nightly-{os.getpid()}/below", {"g": b"y" * 1000})
    programs = tmp_path / "bin"
    programs.mkdir()
    real = shutil.which("systemctl")
    (programs / "systemctl").write_text(SYSTEMCTL.format(systemctl=real))
    (programs / "systemctl").chmod(0o755)
    installed = tmp_path / "standfast" / "bin"
    installed.mkdir(parents=True)
    wrapper(standfast).rename(installed / "standfast")
    init = "~/standfast/bin/standfast backup init /mnt/usb/vault --new-identity ~/key\n"
    assert (
        "standfast backup init /mnt/usb/vault --new" in (ROOT / "README.md").read_text()
    )
    script = STAGE + init + lines.replace("tank/home", home)
    path = f"{programs}:/usr/local/bin:{standfast.env['PATH']}"
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script],
        env=standfast.env | {"PATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    planned, _, rest = done.stdout.partition("job home ran: it has never succeeded")
    assert f"would send {home}@home-" in planned
    assert f"sent {home}/below@home-" in rest
    assert "vault usb verified: 2 of 2 archives are whole" in rest
    assert "BACKUP OK: 2 datasets, 1 vaults" in rest
