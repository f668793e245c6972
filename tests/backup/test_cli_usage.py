"""The command line's manners: help, mistakes, JSON, dry runs, a lost reader."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from commands import COMMANDS, MONITORS, listed
from conftest import COMMAND, Standfast, incompressible, make_vault

from standfast.errors import ExitStatus, StandfastError

if TYPE_CHECKING:
    from conftest import Made, Ran

DOCUMENTED = (0, 1, 2, 3, 10, 11, 12, 13, 14, 130)


@pytest.mark.parametrize("command", ["", *COMMANDS, "marks list", "marks release"])
def test_help(standfast: Standfast, command: str) -> None:
    """Every command's help ends with what its exit statuses mean."""
    ran = standfast("backup", *command.split(), "--help")
    _, _, section = ran.out.partition("\nEXIT STATUS\n")
    words = section.replace(";", " ").split()
    statuses = (0, 1, 2, 3, 130) if command in MONITORS else DOCUMENTED
    assert {str(number) for number in statuses} <= set(words)
    assert "" == ran.err
    if command and "COMMAND ..." not in ran.out:
        for flag in ("--json", "--quiet", "--verbose", "--retry-for"):
            assert flag in ran.out


def test_help_names_every_command(standfast: Standfast) -> None:
    """The area's help lists its commands, and there are no others."""
    names = {command.split()[0] for command in COMMANDS}
    assert sorted(names) == sorted(listed(standfast("backup", "--help").out))


CHANGING = ("init", "send", "restore", "clean", "run", "prune", "rewrap")


@pytest.mark.parametrize("command", [*CHANGING, "signer revoke"])
def test_what_changes_something_can_be_tried(
    standfast: Standfast, command: str
) -> None:
    """Each command that changes something has --dry-run."""
    assert "--dry-run" in standfast("backup", *command.split(), "--help").out


def test_exit_statuses_are_unique() -> None:
    """One meaning a number; every error has one that is documented."""
    of_tune = (20, 21, 22)
    assert {*DOCUMENTED, *of_tune} == {int(status) for status in ExitStatus}
    assert len(ExitStatus.__members__) == len(set(ExitStatus))
    kinds = {StandfastError}
    while more := {sub for kind in kinds for sub in kind.__subclasses__()} - kinds:
        kinds |= more
    assert {kind.status for kind in kinds} <= set(ExitStatus)
    assert ExitStatus.DONE not in {kind.status for kind in kinds}


def test_help_imports_no_area() -> None:
    """--help and --version load no area and none of its libraries."""
    code = (
        "import sys; from standfast.cli import main; assert 0 == main(['--help']);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=60
    )
    loaded = done.stderr.decode().split()
    heavy = ("cryptography", "msgspec", "numpy", "rich", "backports", "compression")
    for name in loaded:
        assert not name.startswith(("standfast.backup", "standfast.zfs", *heavy)), name
    assert "standfast.cli" in loaded


def test_help_is_quick(standfast: Standfast) -> None:
    """Help comes within 100 ms over the interpreter's own start, twice that here.

    The machine that runs this may be busy: the bound is doubled, and the median of
    seven counts.
    """
    took = []
    for _ in range(7):
        begin = time.perf_counter()
        standfast("--help")
        took.append(time.perf_counter() - begin)
    assert statistics.median(took) < 0.2


def assert_complains(ran: Ran, status: int) -> None:
    lines = ran.err.splitlines()
    assert status == ran.code, ran
    assert 2 == len(lines), ran.err
    assert lines[0].startswith("standfast: error: ")
    assert lines[1].startswith("standfast: hint: ")
    message = lines[0].removeprefix("standfast: error: ")
    assert not message.endswith(".")


MISTAKES = [
    "",
    "nonsense",
    "backup",
    "backup nonsense",
    "backup list",
    "backup list {vault} {vault}",
    "backup list {vault} --no-such-flag",
    "backup list {vault} --ident x",
    "backup list {vault} --retry-for soon",
    "backup list ftp://host/x",
    "backup list ssh://host",
    "backup list ssh://-oProxyCommand=x/y",
    "backup list {vault} --signer nonsense",
    "backup init {new}",
    "backup init {new} -r nonsense",
    "backup init {new} -r age1nonsense",
    "backup init {new} --new-identity {key}",
    "backup init {new} --new-identity k --segment-size 1k",
    "backup init {new} --new-identity k --segment-size 1T",
    "backup init {new} --new-identity k --segment-size x",
    "backup send",
    "backup send {vault}",
    "backup send --stdin x",
    "backup send --stdin x y {vault}",
    "backup send nosnapshot {vault}",
    "backup send a@b@c {vault}",
    "backup send a@b {vault} --compression-level 0",
    "backup send a@b {vault} --compression-level 20",
    "backup send a@b {vault} --compression-level x",
    "backup send --stdin x {vault} --bwlimit 0",
    "backup send --stdin x {vault} --bwlimit fast",
    "backup verify {vault} --level all",
    "backup verify {vault} abcdef",
    "backup restore {vault}",
    "backup restore {vault} x",
    "backup restore {vault} x pool/a -o file",
    "backup restore {vault} x -o {key} -i {key}",
    "backup restore {vault} x -o - --json",
    "backup restore {vault} nothing -o out -i {key}",
    "backup restore {vault} x bad//name",
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Standfast, Made]:
    """One vault with one archive, for all that changes nothing."""
    folder = tmp_path_factory.mktemp("usage")
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONWARNINGS": "error",
        "LANG": "C.UTF-8",
    }
    standfast = Standfast(folder, env)
    vault = make_vault(standfast, folder / "vault", "--segment-size", "64k")
    data = incompressible(150_000)
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=data)
    return standfast, vault


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder with its kind, time and content."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        digest = hashlib.sha256(content).hexdigest()
        found[str(path)] = f"{path.stat().st_mode:o} {digest}"
    return found


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(filled: tuple[Standfast, Made], words: str) -> None:
    """Every mistake in usage is one error, one hint, status 2, and no change."""
    standfast, vault = filled
    places = {
        "vault": str(vault.path),
        "new": str(standfast.folder / "new"),
        "key": str(vault.key),
    }
    before = tree(standfast.folder)
    ran = standfast(*(word.format(**places) for word in words.split()), ok=None)
    assert_complains(ran, 2)
    assert ("--json" in words) == bool(ran.out)
    assert before == tree(standfast.folder)


def test_no_vault(filled: tuple[Standfast, Made]) -> None:
    """Every command says that there is no vault, with 10; a typo makes nothing."""
    standfast, vault = filled
    key = ("-i", vault.key)
    before = tree(standfast.folder)
    for words in (
        ("list", "typo"),
        ("verify", "typo"),
        ("restore", "typo", "x", "-o", "out", *key),
        ("kit", "typo"),
        ("clean", "typo"),
        ("send", "--stdin", "x", "typo"),
    ):
        assert_complains(standfast("backup", *words, stdin=b"data", ok=None), 10)
    assert before == tree(standfast.folder)


def test_a_vault_is_not_made_twice(filled: tuple[Standfast, Made]) -> None:
    """init refuses a place that holds a vault, or anything else."""
    standfast, vault = filled
    before = tree(vault.path)
    words = ("backup", "init", vault.path, "-r", vault.recipient)
    ran = standfast(*words, ok=None)
    assert ran.code not in {0, 3}
    assert "already" in ran.err
    assert before == tree(vault.path)


def test_json(filled: tuple[Standfast, Made]) -> None:
    """With --json every command prints one document, whether it succeeds or not."""
    standfast, vault = filled
    key = ("-i", vault.key)
    new = standfast.folder / "made-by-json"
    good: list[tuple[object, ...]] = [
        ("init", new, "-r", vault.recipient),
        ("init", standfast.folder / "never", "-r", vault.recipient, "-n"),
        ("send", "--stdin", "y", new),
        ("send", "--stdin", "y", new, "-n"),
        ("list", vault.path),
        ("list", vault.path, *key),
        ("verify", vault.path),
        ("verify", vault.path, "--level", "decrypt", *key),
        ("verify", vault.path, "--fetch"),
        ("restore", vault.path, "x", "-o", standfast.folder / "by-json", *key),
        ("restore", vault.path, "x", "-o", "never", "-n", *key),
        ("kit", vault.path),
        ("clean", vault.path),
        ("clean", vault.path, "-n"),
    ]
    for words in good:
        ran = standfast("backup", *words, "--json", stdin=b"data")
        assert "error" not in ran.json(), words
        assert "" == ran.err, words
    for command in COMMANDS:
        words = {
            "init": ("init", vault.path, "-r", vault.recipient),
            "send": ("send", "--stdin", "y", "typo"),
            "restore": ("restore", "typo", "x", "-o", "out", *key),
        }.get(command, (*command.split(), "typo"))
        ran = standfast("backup", *words, "--json", stdin=b"data", ok=None)
        error = ran.json()["error"]
        assert {"message", "hint", "status"} == set(error), words
        assert ran.code == error["status"] != 0
        assert error["message"] in ran.err


def test_a_damaged_vault_in_json(standfast: Standfast, vault: Made) -> None:
    """What verify finds stands in the document, with the status of the process."""
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=b"data")
    (archive,) = vault.archives()
    (archive / "manifest.json.age").unlink()
    ran = standfast("backup", "verify", vault.path, "--json", ok=13)
    document = ran.json()
    assert document["ok"] is False
    assert 13 == document["status"]
    (finding,) = document["findings"]
    assert f"archives/{archive.name}/manifest.json.age" == finding["object"]
    assert "damage" == finding["grade"]


def test_dry_runs_change_nothing(standfast: Standfast, vault: Made) -> None:
    """-n leaves vault, state and folder as they were, byte for byte."""
    data = incompressible(100_000)
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=data)
    (archive,) = vault.archives()
    part = archive / ".part-0123456789abcdef"
    part.write_bytes(b"left over")
    before = tree(standfast.folder)
    new = standfast.folder / "new"
    key = ("-i", vault.key)
    said = {}
    for words in (
        ("init", new, "--new-identity", standfast.folder / "new.key"),
        ("send", "--stdin", "y", vault.path),
        ("restore", vault.path, "x", "-o", standfast.folder / "out", *key),
        ("clean", vault.path),
        ("prune", vault.path, "--keep-daily", "1"),
        ("rewrap", vault.path, *key, "-r", vault.recipient),
    ):
        ran = standfast("backup", *words, "-n", stdin=b"data")
        said[words[0]] = ran.out
        assert before == tree(standfast.folder), words
    for command, out in said.items():
        assert "would" in out, command
    standfast("backup", "clean", vault.path)
    assert not part.exists()


def test_a_dry_restore_checks_all(standfast: Standfast, vault: Made) -> None:
    """A dry restore is a proof: it refuses what the restore would refuse."""
    data = incompressible(200_000)
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=data)
    (archive,) = vault.archives()
    segment = archive / "00000002.zst.age"
    segment.write_bytes(segment.read_bytes()[:-1])
    words = ("backup", "restore", vault.path, "x", "-o", "out", "-i", vault.key)
    standfast(*words, "-n", ok=13)


def test_a_full_disk_behind_standard_output(filled: tuple[Standfast, Made]) -> None:
    """What cannot be printed is a failure, never a success without a word."""
    standfast, vault = filled
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    key = ("-i", str(vault.key))
    for words in (
        ("--help",),
        ("--version",),
        ("backup", "list", "--help"),
        ("backup", "list", str(vault.path)),
        ("backup", "list", str(vault.path), "--json"),
        ("backup", "list", "typo", "--json"),
        ("backup", "verify", str(vault.path)),
        ("backup", "kit", str(vault.path)),
        ("backup", "restore", str(vault.path), "x", "-o", "-", *key),
    ):
        for unbuffered in ("", "1"):
            with Path("/dev/full").open("wb") as full:
                done = subprocess.run(
                    [*COMMAND, *words],
                    stdout=full,
                    stderr=subprocess.PIPE,
                    env=standfast.env | {"PYTHONUNBUFFERED": unbuffered},
                    cwd=standfast.folder,
                    check=False,
                    timeout=60,
                )
            assert 0 != done.returncode, words
            assert done.stderr.startswith(b"standfast: error: "), words
            assert b"Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough(filled: tuple[Standfast, Made]) -> None:
    """``| head -1`` ends the command quietly; a cut restore is a failure."""
    standfast, vault = filled
    quoted = subprocess.list2cmdline(COMMAND)
    for words in ("backup --help", f"backup kit {vault.path}"):
        done = subprocess.run(
            ["sh", "-c", f"{quoted} {words} | head -c 1"],
            capture_output=True,
            env=standfast.env,
            check=False,
            timeout=60,
        )
        assert 1 == len(done.stdout)
        assert b"" == done.stderr
    script = f"{{ {quoted} backup restore {vault.path} x -o - -i {vault.key}; "
    script += "echo $? >&3; } 3>code | head -c 1 >/dev/null"
    done = subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        env=standfast.env,
        cwd=standfast.folder,
        check=False,
        timeout=60,
    )
    assert b"Traceback" not in done.stderr
    assert "1\n" == (standfast.folder / "code").read_text()


def test_quiet(filled: tuple[Standfast, Made]) -> None:
    """With -q a command that succeeds says nothing."""
    standfast, vault = filled
    for words in (("list", vault.path), ("verify", vault.path), ("clean", vault.path)):
        ran = standfast("backup", *words, "-q")
        assert ("", "") == (ran.out, ran.err)


def test_flags_anywhere(filled: tuple[Standfast, Made]) -> None:
    """Flags may stand before, between and behind the other words."""
    standfast, vault = filled
    (archive,) = vault.archives()
    for words in (
        ("verify", "-q", vault.path, archive.name),
        ("verify", vault.path, "-q", archive.name),
        ("verify", vault.path, archive.name, "-q"),
        ("verify", vault.path, "-q", archive.name, "--level", "hash", archive.name),
    ):
        standfast("backup", *words)
    # An optional word behind a flag; the archive is no send stream.
    restore = ("restore", vault.path, "x", "-i", vault.key, "pool/new", "--json")
    ran = standfast("backup", *restore, ok=2)
    assert "is no send stream" in json.loads(ran.out)["error"]["message"]


def test_restore_never_overwrites(filled: tuple[Standfast, Made]) -> None:
    """A file, or a link to anywhere, in the output's place stays as it is."""
    standfast, vault = filled
    there = standfast.folder / "there"
    there.write_bytes(b"precious")
    link = standfast.folder / "link"
    link.symlink_to("nowhere")
    words = ("backup", "restore", vault.path, "x", "-i", vault.key, "-o")
    for path in (there, link):
        assert_complains(standfast(*words, path, ok=None), 2)
    assert b"precious" == there.read_bytes()
    assert not (standfast.folder / "nowhere").exists()


def test_a_vault_by_a_relative_path(standfast: Standfast, vault: Made) -> None:
    """A vault is the same one however its path is written."""
    standfast("backup", "send", "--stdin", "x", "vault", stdin=b"data")
    standfast("backup", "verify", "./vault/")
    standfast("backup", "verify", vault.path)
    state = standfast.folder / "state" / "standfast" / "vaults" / vault.id
    record = json.loads((state / "record.json").read_text())
    assert [str(vault.path)] == record["addresses"]


def test_a_name_that_is_no_text(standfast: Standfast) -> None:
    """A path that is not printable text is refused before anything remembers it."""
    for name in (b"v\xff", b"v\n2"):
        done = subprocess.run(
            [*COMMAND, "backup", "init", name, "--new-identity", "key"],
            capture_output=True,
            env=standfast.env,
            cwd=standfast.folder,
            check=False,
            timeout=60,
        )
        assert 2 == done.returncode, done
        assert 2 == len(done.stderr.splitlines())
    assert not (standfast.folder / "key").exists()
    make_vault(standfast, standfast.folder / "fine ☃")
