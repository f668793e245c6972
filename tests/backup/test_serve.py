"""A key that may add and verify: what it is refused, in the library and by sshd."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING

import pytest
from conftest import (
    ROOT,
    Made,
    Ran,
    Sshd,
    Standfast,
    incompressible,
    make_vault,
    open_folder,
    run_quietly,
    start_sshd,
    wait_until,
)
from faults import error_line
from hypothesis import given
from hypothesis import strategies as st

from standfast.backup.serving import RefusedError, Rules, Serving, parse_command
from standfast.backup.serving_names import archive_in, is_known, is_open
from standfast.backup.stores.ssh import (
    CUT,
    DONE,
    GONE,
    MARK,
    NOT_A_FILE,
    REFUSED,
    TAKEN,
)
from standfast.backup.stores.ssh_scripts import SCRIPTS
from standfast.errors import UsageError
from standfast.host.ssh import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = incompressible(100_000)
MINE, THEIRS, SIGNED = "a" * 32, "b" * 32, "c" * 32
SEGMENT = "00000000.zst.age"
PART = ".part-0123456789abcdef"
WORDS = st.text(st.characters(exclude_characters="\n\r\0", codec="utf-8"))


@given(st.lists(WORDS, min_size=1))
def test_quoting_and_back(words: list[str]) -> None:
    """Each word that was quoted is read as it was."""
    assert words == unquote(" ".join(map(quote, words)))


@given(st.text("ab'\\! $;|`\"", max_size=20))
def test_only_our_own_quoting_is_read(text: str) -> None:
    """What is read at all is exactly what quoting the result gives."""
    with contextlib.suppress(UsageError):
        again = " ".join(map(quote, unquote(text)))
        # Two quoted runs side by side are one word, and quoted as one.
        assert unquote(again) == unquote(text)
        assert not set('$;|`" ') & set(_outside(text)) - {" "}


def _outside(text: str) -> str:
    """What of a text stands outside of single quotes and is not escaped."""
    out, inside, place = "", False, 0
    while place < len(text):
        char = text[place]
        if char == "'":
            inside = not inside
        elif char == "\\" and not inside:
            place += 1
        elif not inside:
            out += char
        place += 1
    return out


def command(verb: str, *words: object, version: int = 1) -> str:
    """What the ssh store sends for a verb."""
    script = f": standfast {verb} {version}; {SCRIPTS.get(verb, 'id')}"
    argv = ["/bin/sh", "-c", script, "sh", *map(str, words)]
    return "exec " + " ".join(map(quote, argv))


@dataclasses.dataclass
class Far:
    """A vault that is served, without an sshd before it."""

    folder: Path
    notes: Path
    log: list[str]

    def ask(
        self,
        verb: str,
        *words: object,
        stdin: bytes = b"",
        sender: str = "alice",
        allow_read: bool = False,
    ) -> tuple[int, bytes]:
        text = command(verb, self.folder, *words)
        return self.raw(text, stdin, sender=sender, allow_read=allow_read)

    def raw(
        self,
        text: str,
        stdin: bytes = b"",
        *,
        sender: str = "alice",
        allow_read: bool = False,
    ) -> tuple[int, bytes]:
        rules = Rules(self.folder, sender, allow_read, self.notes)
        sink = io.BytesIO()
        serving = Serving(rules, io.BytesIO(stdin), sink, self.log.append)
        status, _ = serving.answer(text)
        return status, sink.getvalue()

    def put(self, name: str, data: bytes, sender: str = "alice") -> int:
        folder, _, last = name.rpartition("/")
        words = (folder, last, len(data), PART)
        return self.ask("put", *words, stdin=data, sender=sender)[0]

    def tree(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        }


@pytest.fixture
def far(tmp_path: Path) -> Far:
    """A finished vault with an archive of alice's, of bob's, and a signed one."""
    far = Far(tmp_path / "vault", tmp_path / "notes", [])
    assert 0 == far.ask("create")[0]
    for name in ("vault.json", "RECOVER.txt", "identity.age", "SHA256SUMS"):
        assert 0 == far.put(name, name.encode())
    assert 0 == far.put("SHA256SUMS.minisig", b"root")
    assert 0 == far.put(f"archives/{MINE}/{SEGMENT}", b"mine")
    assert 0 == far.put(f"archives/{THEIRS}/{SEGMENT}", b"theirs", sender="bob")
    for last in (SEGMENT, "manifest.json.age", "SHA256SUMS", "SHA256SUMS.minisig"):
        assert 0 == far.put(f"archives/{SIGNED}/{last}", last.encode())
    assert [] == far.log
    return far


ESCAPES = [
    "../x",
    "/etc/passwd",
    "archives/../../x",
    f"archives/{MINE}/../../../x",
    f"archives/{MINE}/../{THEIRS}/{SEGMENT}",
    f"archives/{MINE}/deeper/{SEGMENT}",
    f"archives//{SEGMENT}",
    f"archives/{MINE[:-1]}/{SEGMENT}",
    f"archives/{MINE}/{PART}",
    f"archives/{MINE}/.ssh",
    f"archives/{MINE}/ ",
    "authorized_keys",
    "",
    ".",
    "x\ny",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_leads_out(far: Far, name: str) -> None:
    """Nothing is read, written or removed but a vault's own objects."""
    before = far.tree()
    folder, _, last = name.rpartition("/")
    for verb, words in {
        "put": (folder, last, 1, PART),
        "replace": (folder, last, 1, PART),
        "get": (name,),
        "get_range": (name, 1, 9),
        "delete": (name,),
        "delete_folder": (name,),
    }.items():
        if "\n" in name:
            continue
        status, out = far.ask(verb, *words, stdin=b"x", allow_read=True)
        assert REFUSED == status, (verb, name)
        assert b"" == out
    for verb in ("get_small", "digests"):
        status, out = far.ask(verb, stdin=f"{name}\n".encode(), allow_read=True)
        assert (0, True) == (status, out.endswith(DONE))
        assert b"root" not in out
        assert not any(
            line[:64].isalnum() and len(line) > 64 for line in out.split(b"\n")
        )
    assert before == far.tree()
    assert "\n" in name or 6 == len(far.log)


@pytest.mark.parametrize(
    ("name", "sender"),
    [
        ("vault.json", "alice"),
        ("extra.json", "alice"),
        (f"removals/{'A' * 16}-00000001/removal.json", "alice"),
        (f"archives/{THEIRS}/00000001.zst.age", "alice"),
        (f"archives/{THEIRS}/SHA256SUMS.minisig", "alice"),
        (f"archives/{SIGNED}/00000001.zst.age", "alice"),
        (f"archives/{SIGNED}/{SEGMENT}", "alice"),
        (f"archives/{MINE}/00000001.zst.age", "bob"),
    ],
)
def test_no_writing_where_it_is_not_ours(far: Far, name: str, sender: str) -> None:
    """A finished vault, a signed archive and another's archive take nothing."""
    before = far.tree()
    assert REFUSED == far.put(name, b"forged", sender)
    assert before == far.tree()
    assert 1 == len(far.log)
    assert sender in far.log[0]


def test_never_over_what_is_there(far: Far) -> None:
    """Our own unfinished archive, too, keeps what it has."""
    assert TAKEN == far.put(f"archives/{MINE}/{SEGMENT}", b"other")
    assert b"mine" == far.tree()[f"archives/{MINE}/{SEGMENT}"]
    assert 0 == far.put(f"archives/{MINE}/00000001.zst.age", b"next")


def test_nothing_that_counts_is_deleted(far: Far) -> None:
    """Only what its own sender began, and nobody signed, may go."""
    before = far.tree()
    for name in ("vault.json", f"archives/{SIGNED}/{SEGMENT}", "archives"):
        assert REFUSED == far.ask("delete", name)[0]
        assert REFUSED == far.ask("delete_folder", name)[0]
        new = (*name.rpartition("/")[::2], 1, PART)
        assert REFUSED == far.ask("replace", *new, stdin=b"x")[0]
    for archive, sender in ((SIGNED, "alice"), (THEIRS, "alice"), (MINE, "bob")):
        words = (f"archives/{archive}",)
        assert REFUSED == far.ask("delete_folder", *words, sender=sender)[0]
        words = (f"archives/{archive}/{SEGMENT}",)
        assert REFUSED == far.ask("delete", *words, sender=sender)[0]
    assert before == far.tree()
    assert 15 == len(far.log)
    assert 0 == far.ask("delete", f"archives/{MINE}/{SEGMENT}")[0]
    assert 0 == far.ask("delete_folder", f"archives/{MINE}")[0]
    assert not (far.folder / "archives" / MINE).exists()
    assert far.folder.exists()


def test_what_may_be_read(far: Far) -> None:
    """Hashes of all, contents of what a verifier needs; the rest if granted."""
    for name, data in far.tree().items():
        granted = (0, MARK + data)
        open_to_all = name.rpartition("/")[2] in {
            "vault.json", "RECOVER.txt", "SHA256SUMS", "SHA256SUMS.minisig"
        }  # fmt: skip
        assert open_to_all == is_open(name)
        expected = granted if open_to_all else (REFUSED, b"")
        assert expected == far.ask("get", name)
        assert expected == far.ask("get_range", name, 1, 1_000)
        assert granted == far.ask("get", name, allow_read=True)
        out = far.ask("get_small", stdin=f"{name}\n".encode())[1]
        # Data blocks of a tar stream begin at 512, behind the mark.
        assert open_to_all == (out[len(MARK) + 512 :].startswith(data))
        digest = hashlib.sha256(data).hexdigest()
        line = f"{digest}  {name}\n".encode()
        assert (0, MARK + line + DONE) == far.ask("digests", stdin=f"{name}\n".encode())
        digest = hashlib.sha256(b"01" + data).hexdigest()
        line = f"{digest}  {name}\n".encode()
        asked = f"01 {name}\n".encode()
        assert (0, MARK + line + DONE) == far.ask("digests_after", stdin=asked)
    assert NOT_A_FILE == far.ask("get", f"archives/{'d' * 32}/SHA256SUMS")[0]


@pytest.mark.parametrize("place", ["archives", f"archives/{MINE}"])
def test_links_lead_nowhere(far: Far, tmp_path: Path, place: str) -> None:
    """A link that somebody planted is not followed, whatever it leads to."""
    outside = tmp_path / "outside"
    (far.folder / place).rename(outside)
    (far.folder / place).symlink_to(outside)
    before = sorted(outside.rglob("*"))
    name = f"archives/{MINE}/{SEGMENT}"
    assert REFUSED == far.put(f"archives/{MINE}/00000001.zst.age", b"x")
    assert REFUSED == far.ask("get", name, allow_read=True)[0]
    assert REFUSED == far.ask("delete", name)[0]
    assert REFUSED == far.ask("make_stable", f"archives/{MINE}")[0]
    assert (0, MARK + DONE) == far.ask("digests", stdin=f"{name}\n".encode())
    assert before == sorted(outside.rglob("*"))
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (far.folder / "RECOVER.txt").unlink()
    (far.folder / "RECOVER.txt").symlink_to(secret)
    assert NOT_A_FILE == far.ask("get", "RECOVER.txt")[0]


def test_sizes(far: Far) -> None:
    """Fewer bytes than stated are a cut, more are too, and huge ones are refused."""
    place = f"archives/{MINE}"
    words = (place, "00000001.zst.age", 10, PART)
    assert CUT == far.ask("put", *words, stdin=b"short")[0]
    assert CUT == far.ask("put", *words, stdin=b"longer than ten")[0]
    for size in ("1e3", "-1", str(1 << 40)):
        assert REFUSED == far.ask("put", place, SEGMENT, size, PART, stdin=b"x")[0]
    escape = (place, "00000001.zst.age", 1, "../../x")
    assert REFUSED == far.ask("put", *escape, stdin=b"x")[0]
    words = (place, "SHA256SUMS.minisig", 1 << 20, PART)
    assert REFUSED == far.ask("put", *words, stdin=b"x")[0]
    assert [SEGMENT] == [p.name for p in (far.folder / place).iterdir()]


def test_other_places_and_other_words(far: Far, tmp_path: Path) -> None:
    """The key is for one vault, and for what standfast asks."""
    (tmp_path / "other").mkdir()
    for root in (tmp_path / "other", far.folder / "archives", far.folder / "..", "/"):
        assert REFUSED == far.raw(command("entries", root))[0]
    for text in (
        "",
        "id",
        "internal-sftp",
        "/usr/lib/openssh/sftp-server",
        "scp -t /",
        "rsync --server . /",
        "exec '/bin/sh' '-c' 'id' 'sh'",
        "exec '/bin/sh' '-c' ': standfast' 'sh'",
        command("entries", far.folder) + "; id",
        command("entries", far.folder) + " $(id)",
        command("entries", far.folder).replace("/bin/sh", "/bin/bash"),
        command("entries", far.folder, version=2),
        command("entries", far.folder, "more"),
        command("rm", far.folder),
        command("_put", far.folder),
        command("entries"),
    ):
        status, out = far.raw(text)
        assert (REFUSED, b"") == (status, out), text
    # What the script says does not matter, since nobody runs it.
    lying = f": standfast entries 1; touch {tmp_path / 'ran'}"
    argv = ["/bin/sh", "-c", lying, "sh", str(far.folder)]
    text = "exec " + " ".join(map(quote, argv))
    assert 0 == far.raw(text)[0]
    assert not (tmp_path / "ran").exists()
    shutil.rmtree(far.folder)
    assert GONE == far.ask("entries")[0]
    assert GONE == far.put(f"archives/{MINE}/{SEGMENT}", b"x")
    with pytest.raises(UsageError):
        Rules(far.folder, "../x", allow_read=False, notes=far.notes)


@given(st.text(max_size=60))
def test_any_command(text: str) -> None:
    """Nothing but a request of ours is understood."""
    with pytest.raises(RefusedError):
        parse_command(text)


@given(st.text(max_size=80))
def test_any_name(name: str) -> None:
    """A known name holds no step that leads anywhere else."""
    if is_known(name):
        assert not {"", ".", ".."} & set(name.split("/"))
    assert archive_in(name) == "" or name.startswith("archives/")


@dataclasses.dataclass
class Served:
    """A vault behind forced commands, with a key for alice and one for bob."""

    sshd: Sshd
    alice: Standfast
    bob: Standfast
    log: Path

    def clear(self) -> None:
        """Forget what was there, for the next test."""
        shutil.rmtree(self.sshd.home / "vault", ignore_errors=True)
        shutil.rmtree(self.sshd.home / ".local", ignore_errors=True)
        self.log.write_text("")

    @property
    def address(self) -> str:
        return self.sshd.address()

    def ssh(self, *words: str, key: str = "client") -> Ran:
        folder = self.sshd.bin.parent
        argv = ["ssh", "-F", str(folder / f"{key}_config"), "-p", str(self.sshd.port)]
        argv += ["-l", self.sshd.user, "127.0.0.1", *words]
        done = subprocess.run(argv, input=b"x", capture_output=True, check=False)
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def python_for(user: str) -> str:
    """How another user runs this checkout: our Python may lie in somebody's home."""
    path = os.pathsep.join([str(ROOT / "src"), sysconfig.get_path("purelib")])
    version = f"python3.{sys.version_info.minor}"
    for program in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [program, "-c", "import standfast.backup.serving"],
                user=user, extra_groups=[], env={"PYTHONPATH": path},
                capture_output=True, check=False, cwd="/",
            )  # fmt: skip
            if done.returncode == 0:
                return f"PYTHONPATH={path} {program} -m standfast"
    pytest.skip(f"no {version} that another user may run is installed")


def forced_key(folder: Path, home: Path, name: str, *more: str) -> str:
    """A line of authorized_keys as the manual has it."""
    python = python_for(home.owner())
    words = f"{python} backup serve --append-only {home / 'vault'}"
    words += " ".join(["", "--log", str(home / "serve.log"), *more])
    public = (folder / f"{name}.pub").read_text()
    return f'command="{words}",restrict {public}'


@pytest.fixture(scope="module")
def sshd() -> Iterator[Sshd]:
    """An sshd of this file's own, since the keys are changed."""
    folder = open_folder("standfast-serve-")
    try:
        yield from start_sshd(folder, "/bin/sh")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def served(sshd: Sshd, standfast: Standfast) -> Served:
    folder, home = sshd.bin.parent, sshd.home
    if not (folder / "other").exists():
        words = ("-q", "-t", "ed25519", "-N", "", "-f", folder / "other")
        run_quietly("ssh-keygen", *words)
        for name in ("client", "other"):
            text = (folder / "ssh_config").read_text()
            text = text.replace(f"{folder / 'client'}\n", f"{folder / name}\n")
            (folder / f"{name}_config").write_text(text)
            wrapper = folder / f"bin-{name}" / "ssh"
            wrapper.parent.mkdir()
            config = shlex.quote(str(folder / f"{name}_config"))
            wrapper.write_text(
                f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n'
            )
            wrapper.chmod(0o755)
        keys = forced_key(folder, home, "client", "--sender", "alice")
        keys += forced_key(folder, home, "other", "--sender", "bob")
        (home / ".ssh" / "authorized_keys").write_text(keys)
        (home / "serve.log").touch()
        shutil.chown(home / "serve.log", sshd.user)
    senders = {}
    for name in ("client", "other"):
        path = f"{folder / f'bin-{name}'}:{standfast.env['PATH']}"
        env = standfast.env | {
            "PATH": path,
            "XDG_STATE_HOME": str(standfast.folder / name),
        }
        senders[name] = Standfast(standfast.folder, env)
    served = Served(sshd, senders["client"], senders["other"], home / "serve.log")
    served.clear()
    return served


def served_vault(served: Served) -> Made:
    local = served.alice.folder / "far"
    words = ("--segment-size", "64k")
    made = make_vault(served.alice, local, *words, address=served.address)
    return dataclasses.replace(made, path=served.sshd.home / "vault")


@pytest.mark.system
def test_through_sshd(served: Served) -> None:
    """Two senders fill one vault, verify and audit it; its owner restores from it."""
    made = served_vault(served)
    address = served.address
    served.alice("backup", "send", "--stdin", "a", address, stdin=DATA)
    words = ("--recipient", made.recipient)
    served.bob("backup", "send", "--stdin", "b", address, *words, stdin=DATA)
    told = served.bob("backup", "list", address, "--json").json()
    (bob,) = {a["signer"] for a in told["archives"] if a["state"] == "committed"}
    signers = ["--signer", made.signer, "--signer", bob]
    for sender in (served.alice, served.bob):
        sender("backup", "list", address)
    served.alice("backup", "verify", address, *signers)
    served.alice("backup", "audit", address, "--objects", "2", *signers)
    assert "" == served.log.read_text()
    owner = served.alice
    listed = owner("backup", "list", made.path, *signers, "--json").json()
    assert 2 == sum(a["state"] == "committed" for a in listed["archives"])
    out = owner.folder / "out"
    owner("backup", "restore", made.path, "a", "-o", out, "-i", made.key, *signers)
    assert DATA == out.read_bytes()
    modes = {path.stat().st_mode & 0o077 for path in made.path.rglob("*")}
    assert {0} == modes


@pytest.mark.system
def test_refusals_through_sshd(served: Served) -> None:
    """What the key may not do fails with one line, changes nothing and is logged."""
    made = served_vault(served)
    address = served.address
    served.alice("backup", "send", "--stdin", "a", address, stdin=DATA)
    served.alice("backup", "verify", address)
    before = {p: p.stat().st_mtime_ns for p in made.path.rglob("*")}
    for words in (
        ("restore", address, "a", "-o", served.alice.folder / "no", "-i", made.key),
        ("verify", address, "--fetch"),
        ("list", address, "-i", made.key),
    ):
        ran = served.alice("backup", *words, ok=1)
        assert "may not be read by a sender" in error_line(ran)
    other = address.replace("/vault", "/elsewhere")
    ran = served.alice("backup", "list", other, ok=1)
    assert "this key is for" in error_line(ran)
    for foreign in (("rm -rf vault",), (), ("sh", "-c", "id"), ("scp", "-t", "/")):
        ran = served.ssh(*foreign)
        assert REFUSED == ran.code
        assert "" == ran.out
    segment = next(made.path.rglob(SEGMENT))
    name = str(segment.relative_to(made.path))
    for verb, more in (
        ("delete", (name,)),
        ("delete_folder", (str(segment.parent.relative_to(made.path)),)),
        ("get", (name,)),
        ("put", (str(segment.parent.relative_to(made.path)), SEGMENT, 1, PART)),
        ("put", ("", "vault.json", 1, PART)),
        ("put", ("../..", "x", 1, PART)),
        ("get", ("/etc/passwd",)),
    ):
        for key in ("client", "other") if verb == "delete" else ("client",):
            ran = served.ssh(command(verb, made.path, *more), key=key)
            assert (REFUSED, "") == (ran.code, ran.out)
            assert "standfast serve: refused:" in ran.err
    assert before == {p: p.stat().st_mtime_ns for p in made.path.rglob("*")}
    log = served.log.read_text().splitlines()
    assert len(log) >= 3 + 1 + 4 + 8
    assert all(" from 127.0.0.1: " in line and "refused: " in line for line in log)
    assert {"alice", "bob"} == {line.split(": ")[1] for line in log}


def unfinished(made: Made) -> list[str]:
    """Archives that hold a segment and no signature."""
    return [
        path.parent.name
        for path in (made.path / "archives").glob(f"*/{SEGMENT}")
        if not (path.parent / "SHA256SUMS.minisig").exists()
    ]


@pytest.mark.system
def test_an_interrupted_send_through_sshd(served: Served) -> None:
    """Its sender may clear away what it never signed; nobody else may."""
    made = served_vault(served)
    served.alice("backup", "send", "--stdin", "a", served.address, stdin=DATA)
    feed = ["sh", "-c", "head -c 200000 /dev/urandom; sleep 100"]
    with subprocess.Popen(feed, stdout=subprocess.PIPE) as source:
        assert source.stdout is not None
        words = ("backup", "send", "--stdin", "b", served.address)
        with served.alice.start(*words, stdin=source.stdout) as process:
            wait_until(lambda: unfinished(made), "an object", 90)
            process.kill()
            source.kill()
    unsigned = unfinished(made)
    assert 1 == len(unsigned)
    folder = f"archives/{unsigned[0]}"
    theirs = served.ssh(command("delete_folder", made.path, folder), key="other")
    assert REFUSED == theirs.code
    served.alice("backup", "clean", served.address)
    assert not (made.path / folder).exists()
    assert 1 == len(list((made.path / "archives").iterdir()))
