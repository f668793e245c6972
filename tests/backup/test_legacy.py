"""Archives of the old script, made by its own pipe, into a vault and back."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import itertools
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Made, Pool, Standfast, incompressible, make_vault, need
from hypothesis import given
from hypothesis import strategies as st

from standfast.backup.legacy import (
    DIFFERS,
    FITS,
    NONE,
    Gunzip,
    OldArchive,
    parse_sum,
)
from standfast.backup.scrypt_file import DEFAULT_MEMORY, ScryptFile, parse_header
from standfast.errors import DamagedError, NoIdentityError

if TYPE_CHECKING:
    from collections.abc import Iterable

PASSPHRASE = "an old passphrase"
# Little work, as the tests make many; the defaults of scrypt(1) take 5 s each.
WORK = ["--logN", "10", "-r", "8", "-p", "1"]
FILES = {"one": b"hello\n" * 3000, "deep/random": incompressible(1_500_000)}


def scrypt(data: bytes, work: list[str] = WORK) -> bytes:
    """Encrypt with the real scrypt(1)."""
    need("scrypt")
    argv = ["scrypt", "enc", *work, "--passphrase", "env:OLD", "-"]
    env = os.environ | {"OLD": PASSPHRASE}
    done = subprocess.run(argv, input=data, capture_output=True, env=env, check=True)
    return done.stdout


@dataclasses.dataclass
class Old:
    """A folder of old archives, and what is in them."""

    folder: Path
    secret: Path
    stream: bytes
    dataset: str

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.gz.sc"

    @property
    def sum(self) -> Path:
        return self.folder / f"{self.name}.gz.sc.sha256sum"

    @property
    def name(self) -> str:
        return f"{self.dataset}@s1".replace("/", "-").replace("@", "-")

    def keep(self, data: bytes, name: str = "", *, summed: bool = True) -> Path:
        """Write an archive with other bytes, and a sum that fits."""
        path = self.folder / f"{name or self.name}.gz.sc"
        path.write_bytes(data)
        place = path.with_name(f"{path.name}.sha256sum")
        place.unlink(missing_ok=True)
        if summed:
            place.write_text(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")
        return path


@pytest.fixture(scope="session")
def made_once(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Old:
    """One archive by the article's own pipe: send, pigz, scrypt, tee, sum."""
    need("scrypt", "pigz", "sha256sum")
    folder = tmp_path_factory.mktemp("old")
    dataset = pool.dataset("old-script", FILES)
    old = Old(folder, folder / "passphrase", b"", dataset)
    old.secret.write_text(PASSPHRASE + "\n")
    old.secret.chmod(0o600)
    work = shlex.join(WORK)
    script = f"""set -e
mkfifo fifo
sha256sum < fifo | cut -d' ' -f1 > chk &
zfs send {dataset}@s1 | tee stream | pigz | \
    scrypt enc {work} --passphrase file:passphrase /dev/stdin | tee fifo > '{old.file}'
wait
SHA256=`cat chk`
printf "%s  %s\\n" $SHA256 '{old.file.name}' > '{old.sum}'
"""
    subprocess.run(["sh", "-c", script], cwd=folder, check=True, timeout=60)
    return dataclasses.replace(old, stream=(folder / "stream").read_bytes())


@pytest.fixture
def old(made_once: Old, tmp_path: Path) -> Old:
    """A copy of it that may be spoilt."""
    folder = tmp_path / ".zfs-backup"
    folder.mkdir()
    copy = dataclasses.replace(made_once, folder=folder)
    copy.file.write_bytes(made_once.file.read_bytes())
    copy.sum.write_text(made_once.sum.read_text())
    return copy


def imported(
    standfast: Standfast, vault: Made, old: Old, *options: object, ok: int = 0
) -> Any:
    """Run the import; return its document."""
    words = ("backup", "import-legacy", old.folder, vault.path, "--json")
    secret = ("--passphrase-file", old.secret)
    return standfast(*words, *secret, *options, ok=ok).json()


def only(document: Any) -> Any:
    (entry,) = document["files"]
    return entry


def archives(standfast: Standfast, vault: Made) -> list[Any]:
    words = ("backup", "list", vault.path, "-i", vault.key, "--json")
    found: list[Any] = standfast(*words).json()["archives"]
    return [a for a in found if a["state"] == "committed"]


def restored(standfast: Standfast, vault: Made, wanted: str) -> bytes:
    out = standfast.folder / f"out-{os.urandom(4).hex()}"
    standfast("backup", "restore", vault.path, wanted, "-o", out, "-i", vault.key)
    return out.read_bytes()


@pytest.mark.system
@pytest.mark.zfs_any
def test_there_and_back(
    standfast: Standfast, vault: Made, old: Old, pool: Pool
) -> None:
    """An archive by the article's pipe comes over whole, once, and restores."""
    guid = pool.zfs("get", "-Hp", "-o", "value", "guid", f"{old.dataset}@s1").strip()
    would = only(imported(standfast, vault, old, "--dry-run"))
    assert ("would import", guid) == (would["outcome"], would["guid"])
    assert [] == archives(standfast, vault)
    entry = only(imported(standfast, vault, old))
    assert ("imported", FITS, True) == (entry["outcome"], entry["sum"], entry["mac"])
    assert len(old.stream) == entry["stream_bytes"]
    (archive,) = archives(standfast, vault)
    assert f"{old.dataset}@s1" == archive["name"] == entry["name"]
    assert entry["archive"] == archive["archive"]
    assert guid == archive["stream"]["guid"] == entry["guid"]
    assert "present" == only(imported(standfast, vault, old))["outcome"]
    assert 1 == len(archives(standfast, vault))
    standfast("backup", "verify", vault.path, "--level", "decrypt", "-i", vault.key)
    target = f"{pool.name}/from-old"
    words = ("backup", "restore", vault.path, f"{old.dataset}@s1", target)
    standfast(*words, "-i", vault.key)
    assert FILES == pool.tree("from-old")
    assert old.stream == restored(standfast, vault, f"{old.dataset}@s1")


@pytest.mark.system
@pytest.mark.zfs_any
def test_restore_straight(standfast: Standfast, old: Old, pool: Pool) -> None:
    """restore-legacy receives an archive, or writes its stream; never over anything."""
    target = f"{pool.name}/straight"
    secret = ("--passphrase-file", old.secret)
    words = ("backup", "restore-legacy", old.file)
    standfast(*words, target, *secret, "--dry-run")
    document = standfast(*words, target, *secret, "--json").json()
    assert FILES == pool.tree("straight")
    guid = pool.zfs("get", "-Hp", "-o", "value", "guid", f"{target}@s1").strip()
    assert guid == document["guid"]
    ran = standfast(*words, target, *secret, ok=2)
    assert "exists already" in ran.err
    out = standfast.folder / "stream"
    standfast(*words, "-o", out, *secret)
    assert old.stream == out.read_bytes()
    piped = subprocess.run(
        standfast.argv(*words, "-o", "-", *secret),
        env=standfast.env,
        capture_output=True,
        check=True,
    )
    assert old.stream == piped.stdout


@pytest.mark.system
def test_of_a_spoilt_one_nothing_is_released(
    standfast: Standfast, old: Old, pool: Pool
) -> None:
    """Where scrypt(1) has written out all but the last byte, nothing appears."""
    data = old.file.read_bytes()
    secret = ("--passphrase-file", old.secret)
    words = ("backup", "restore-legacy", old.file)
    for spoilt in (data[:-1], data + b"x", flipped(data, len(data) // 2)):
        old.file.write_bytes(spoilt)
        ran = standfast(*words, f"{pool.name}/nothing", *secret, ok=13)
        assert f"{old.dataset}@s1" in ran.err
        piped = standfast(*words, "-o", "-", *secret, ok=13)
        assert "" == piped.out
        out = standfast.folder / "none"
        standfast(*words, "-o", out, *secret, ok=13)
        assert not out.exists()
    listed = pool.zfs("list", "-H", "-o", "name").splitlines()
    assert f"{pool.name}/nothing" not in listed


def flipped(data: bytes, place: int) -> bytes:
    out = bytearray(data)
    out[place] ^= 0x10
    return bytes(out)


@pytest.mark.system
def test_what_is_known_of_a_cut_one(
    standfast: Standfast, vault: Made, old: Old
) -> None:
    """A cut in the transfer, a dead scrypt, pigz or zfs send are told apart."""
    data = old.file.read_bytes()
    whole = gzip.compress(old.stream, 1)
    half = len(old.stream) // 2

    old.file.write_bytes(data[: len(data) // 2])
    entry = only(imported(standfast, vault, old, ok=13))
    assert (DIFFERS, False) == (entry["sum"], entry["mac"])
    assert "cut or altered after it was sent" in entry["error"]
    assert 0 < entry["stream_bytes"] < len(old.stream)
    assert f"{old.dataset}@s1" == entry["name"]

    old.keep(data[: len(data) // 2])
    entry = only(imported(standfast, vault, old, ok=13))
    assert (FITS, False) == (entry["sum"], entry["mac"])
    assert "scrypt had not come to its end" in entry["error"]

    old.keep(scrypt(whole[: len(whole) // 2]))
    entry = only(imported(standfast, vault, old, ok=13))
    assert (FITS, True) == (entry["sum"], entry["mac"])
    assert "gzip data is cut" in entry["error"]

    old.keep(scrypt(gzip.compress(old.stream[:half], 1)))
    entry = only(imported(standfast, vault, old, ok=13))
    assert (FITS, True) == (entry["sum"], entry["mac"])
    assert f"it ends after {half} bytes" in entry["error"]
    assert half == entry["stream_bytes"]

    assert [] == archives(standfast, vault)
    standfast("backup", "verify", vault.path)
    assert not list((vault.path / "archives").glob("*"))


@pytest.mark.system
def test_a_sum_that_is_missing_or_another(
    standfast: Standfast, vault: Made, old: Old
) -> None:
    """Without a sum the final MAC decides; a sum that differs is never passed over."""
    old.sum.write_text(f"{'0' * 64}  {old.file.name}\n")
    entry = only(imported(standfast, vault, old, ok=13))
    assert (DIFFERS, True) == (entry["sum"], entry["mac"])
    assert "its sum is another" in entry["error"]
    # The script read its sum before sha256 had written it: there is none then.
    old.sum.write_text(f"  {old.file.name}\n")
    entry = only(imported(standfast, vault, old, "--dry-run"))
    assert ("would import", NONE) == (entry["outcome"], entry["sum"])
    old.sum.unlink()
    entry = only(imported(standfast, vault, old))
    assert ("imported", NONE) == (entry["outcome"], entry["sum"])


@pytest.mark.system
def test_one_bad_one_does_not_stop_the_others(
    standfast: Standfast, vault: Made, old: Old
) -> None:
    """Several archives: what is good is imported, and the status says: partly."""
    data = old.file.read_bytes()
    old.keep(data[:-40], "a-cut-one")
    old.keep(b"not scrypt at all" * 20, "b-foreign-one")
    gone = old.folder / "gone.gz.sc.sha256sum"
    gone.write_text(f"{'0' * 64}  gone.gz.sc\n")
    old.keep(scrypt(gzip.compress(b"no send stream" * 99)), "c-something-else")
    document = imported(standfast, vault, old, ok=3)
    outcomes = {Path(e["file"]).name: e["outcome"] for e in document["files"]}
    assert "imported" == outcomes.pop(old.file.name)
    assert {"refused"} == set(outcomes.values())
    assert 4 == len(outcomes)
    assert 3 == document["status"]
    assert 1 == len(archives(standfast, vault))
    text = standfast(
        *("backup", "import-legacy", old.folder, vault.path),
        *("--passphrase-file", old.secret),
        ok=3,
    )
    assert "1 present, 4 refused" in text.out
    assert "there is a sum, but no gone.gz.sc" in text.out
    assert "this is no send stream" in text.out


@pytest.mark.system
@pytest.mark.zfs_any
def test_an_increment_follows_its_base(
    standfast: Standfast, vault: Made, old: Old, pool: Pool
) -> None:
    """Whoever gave the script `-i` has increments; they come after what they need."""
    mount = pool.mount / old.dataset.partition("/")[2]
    (mount / "later").write_bytes(b"later" * 9000)
    snapshot = f"{old.dataset}@i{os.urandom(3).hex()}"
    pool.zfs("snapshot", snapshot)
    argv = ["zfs", "send", "-i", f"{old.dataset}@s1", snapshot]
    stream = subprocess.run(argv, capture_output=True, check=True).stdout
    kept, base = old.file.read_bytes(), old.file
    base.unlink()
    old.sum.unlink()
    # By name it comes before what it needs.
    old.keep(scrypt(gzip.compress(stream, 1)), "a-later-one")
    entry = only(imported(standfast, vault, old, ok=2))
    assert "which the vault does not have" in entry["error"]
    base.write_bytes(kept)
    document = imported(standfast, vault, old)
    assert ["imported"] * 2 == [entry["outcome"] for entry in document["files"]]
    target = f"increments-{os.urandom(3).hex()}"
    words = ("backup", "restore", vault.path, snapshot, f"{pool.name}/{target}")
    standfast(*words, "-i", vault.key)
    assert {**FILES, "later": b"later" * 9000} == pool.tree(target)
    (mount / "later").unlink()


@pytest.mark.system
def test_a_wrong_passphrase(standfast: Standfast, vault: Made, old: Old) -> None:
    """It is told from damage: the header says so, and the sum says which."""
    old.secret = standfast.folder / "other"
    old.secret.write_text("not it\n")
    old.secret.chmod(0o600)
    entry = only(imported(standfast, vault, old, ok=12))
    assert "passphrase is wrong" in entry["error"]
    data = old.file.read_bytes()
    old.file.write_bytes(flipped(data, 70))
    entry = only(imported(standfast, vault, old, ok=13))
    assert "its SHA-256 is not that of" in entry["error"]
    old.secret.chmod(0o644)
    words = ("backup", "restore-legacy", old.file, "-o", "x")
    ran = standfast(*words, "--passphrase-file", old.secret, ok=2)
    assert "others can read" in ran.err


@pytest.mark.system
def test_memory_is_bounded(standfast: Standfast, old: Old, tmp_path: Path) -> None:
    """Neither a large file nor its header takes more memory than is allowed."""
    costly = bytearray(old.file.read_bytes()[:96])
    costly[7] = 22
    costly[48:64] = hashlib.sha256(costly[:48]).digest()[:16]
    old.keep(bytes(costly) + bytes(64), "costly")
    words = ("backup", "restore-legacy", old.folder / "costly.gz.sc", "-o", "x")
    ran = standfast(*words, "--passphrase-file", old.secret, ok=2)
    assert "takes 4.0 GiB of memory" in ran.err
    assert "--max-memory" in ran.err
    # 256 MiB of zeros are a quarter of a MiB in gzip, and one WRITE after another.
    big = tmp_path / "big.gz.sc"
    big.write_bytes(scrypt(gzip.compress(old.stream + bytes(256 << 20), 6)))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from standfast.backup.legacy import OldArchive\n"
        "with open(sys.argv[2]) as f: secret=f.readline().strip().encode()\n"
        "old=OldArchive(Path(sys.argv[1]),secret,1<<30)\n"
        "print(old.examine(lambda n:None).fault)\n"
        "n=sum(len(p) for p in old.stream())\n"
        # ru_maxrss would be that of the process that started this one.
        "status=Path('/proc/self/status').read_text()\n"
        "print(n, status.partition('VmHWM:')[2].split()[0])\n"
    )
    argv = [sys.executable, "-c", code, str(big), str(old.secret)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    fault, numbers = done.stdout.splitlines()
    assert "data after the end of the stream" in fault
    count, peak = map(int, numbers.split())
    assert len(old.stream) + (256 << 20) == count
    assert peak < 160 << 10


@pytest.mark.system
def test_an_import_goes_on(standfast: Standfast, tmp_path: Path, old: Old) -> None:
    """Killed half way, the next run uses what is stored and commits one archive."""
    vault = make_vault(standfast, tmp_path / "slow", "--segment-size", "64k")
    words = ("backup", "import-legacy", old.folder, vault.path)
    secret = ("--passphrase-file", old.secret)
    process = standfast.start(*words, *secret)
    try:
        while process.poll() is None:
            if len(list(vault.path.glob("archives/*/0*"))) >= 3:
                process.kill()
                break
    finally:
        process.communicate()
    ran = standfast(*words, *secret)
    if process.returncode < 0:
        assert "goes on with archive" in ran.err
    assert 1 == len(archives(standfast, vault))
    assert old.stream == restored(standfast, vault, f"{old.dataset}@s1")


@pytest.mark.system
def test_a_file_that_changes_meanwhile(old: Old) -> None:
    """What is given out is what was proven, though the file was swapped since."""
    archive = OldArchive(old.file, PASSPHRASE.encode(), DEFAULT_MEMORY)
    assert "" == archive.examine(lambda _: None).fault
    data = old.file.read_bytes()
    with old.file.open("r+b") as file:
        file.seek(len(data) - 5000)
        file.write(bytes(10))
    given_out = bytearray()
    pieces = archive.stream()
    with pytest.raises(DamagedError, match="changed while it was read"):
        collect(pieces, given_out)
    archive.close()
    assert old.stream.startswith(bytes(given_out))
    assert len(given_out) < len(old.stream)


def collect(pieces: Iterable[memoryview], into: bytearray) -> None:
    for piece in pieces:
        into += piece


@pytest.fixture(scope="module")
def sealed() -> dict[int, bytes]:
    """Files of scrypt(1) of several sizes, by the size of what is in them."""
    sizes = (0, 1, 31, 32, 33, 65_535, 65_536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1)
    return {size: scrypt(incompressible(size)) for size in sizes}


def opened(path: Path) -> bytes:
    file = ScryptFile(path, PASSPHRASE.encode(), DEFAULT_MEMORY)
    try:
        assert file.prove(lambda _: None, lambda _: None).authentic
        return b"".join(bytes(part) for part in file.plaintext())
    finally:
        file.close()


def test_files_of_scrypt(sealed: dict[int, bytes], tmp_path: Path) -> None:
    """What scrypt(1) seals we open, at every size where something could be off."""
    path = tmp_path / "file"
    for size, data in sealed.items():
        path.write_bytes(data)
        assert incompressible(size) == opened(path), size


def test_no_change_goes_unseen(sealed: dict[int, bytes], tmp_path: Path) -> None:
    """Any cut, and a flip of any bit of a small file, is refused."""
    path = tmp_path / "file"
    data = sealed[33]
    spoilt = [data[:n] for n in range(len(data))]
    spoilt += [flipped(data, place) for place in range(len(data))]
    spoilt += [data + b"\0", data + data]
    for number, one in enumerate(spoilt):
        path.write_bytes(one)
        assert refused(path), f"case {number} was opened"


def refused(path: Path) -> bool:
    try:
        file = ScryptFile(path, PASSPHRASE.encode(), DEFAULT_MEMORY)
    except (DamagedError, NoIdentityError):
        return True
    try:
        return not file.prove(lambda _: None, lambda _: None).authentic
    finally:
        file.close()


@given(head=st.binary(max_size=100), real=st.booleans())
def test_any_header(head: bytes, *, real: bool) -> None:
    """Whatever a file begins with is a header or one clear error."""
    if real:
        head = (b"scrypt" + head)[:100]
    with contextlib.suppress(DamagedError):
        found = parse_header(head)
        assert hashlib.sha256(head[:48]).digest()[:16] == head[48:64]
        assert found.memory > 0


@given(
    members=st.lists(st.binary(max_size=3000), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 20_000), max_size=5),
    padding=st.integers(0, 5),
)
def test_gunzip(members: list[bytes], cuts: list[int], padding: int) -> None:
    """Several members in any pieces, with padding, give what went in."""
    data = b"".join(map(gzip.compress, members)) + bytes(padding)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    gunzip = Gunzip()
    out = bytearray()
    for start, end in itertools.pairwise(edges):
        for piece in gunzip.feed(memoryview(data)[start:end]):
            out += piece
    gunzip.finish()
    assert b"".join(members) == bytes(out)


def unpacked(data: bytes) -> bytes:
    gunzip = Gunzip()
    out = b"".join(gunzip.feed(memoryview(data)))
    gunzip.finish()
    return out


@given(data=st.binary(min_size=1, max_size=3000), cut=st.integers(1, 3000))
def test_gunzip_sees_its_end(data: bytes, cut: int) -> None:
    """A cut member is no end, and neither is what follows one."""
    packed = gzip.compress(data)
    for spoilt in (packed[: -(cut % len(packed)) or -1], packed + b"\0x"):
        with pytest.raises(DamagedError):
            unpacked(spoilt)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("{}  NAME\n", True),
        ("{} *NAME\n", True),
        ("SHA256 (NAME) = {}\n", True),
        ("SHA256 (/home/me/.zfs-backup/NAME) = {}\n", True),
        ("{}\n", True),
        ("{}  other\n", False),
        ("  NAME\n", False),
        ("", False),
    ],
)
def test_forms_of_sums(text: str, *, fits: bool) -> None:
    """sha256sum's form, with and without the star, BSD's, and the sum alone."""
    value = hashlib.sha256(b"").hexdigest()
    found = parse_sum(text.format(value.upper()), "NAME")
    assert (value if fits else None) == found


def test_nothing_there(standfast: Standfast, vault: Made, tmp_path: Path) -> None:
    """A folder without archives is a mistake, not a success."""
    secret = tmp_path / "secret"
    secret.write_text("x\n")
    secret.chmod(0o600)
    words = ("backup", "import-legacy", tmp_path, vault.path)
    ran = standfast(*words, "--passphrase-file", secret, ok=2)
    assert "no *.gz.sc in" in ran.err
