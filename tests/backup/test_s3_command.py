"""The real command with a vault in object storage, in good times and in bad."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from conftest import (
    Made,
    Pool,
    Standfast,
    incompressible,
    make_vault,
    wait_until,
)
from faults import (
    PROMPT_SECONDS,
    Link,
    assert_no_survivors,
    error_line,
    interrupt,
    marked,
)
from objectstore import READER, HttpLink, ObjectServer, object_server, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.system

FILES = {"one": b"hello\n", "deep/er/two words": b"x" * 200_000,
         "deep/random": incompressible(700_000), "empty": b""}  # fmt: skip
DATA = incompressible(1_000_000)


def made_at(
    command: Standfast, address: str, size: str = "64k", *options: object
) -> Made:
    path = command.folder / f"s3-{os.urandom(4).hex()}"
    return make_vault(command, path, "--segment-size", size, *options, address=address)


@pytest.fixture
def command(standfast: Standfast, s3_server: ObjectServer) -> Standfast:
    return s3_server.command(standfast)


@pytest.fixture
def place() -> str:
    """A place in the bucket that no other test has."""
    return f"vaults/{os.urandom(4).hex()}"


def prefix_of(place: str) -> str:
    return place.partition("/")[2] + "/"


def keys(server: ObjectServer, place: str, ending: str = "") -> list[str]:
    return [k for k in server.keys("vaults", prefix_of(place)) if k.endswith(ending)]


@pytest.fixture
def link(s3_server: ObjectServer) -> Iterator[Link]:
    link = Link(s3_server.port)
    yield link
    link.close()


def test_the_whole_way(
    command: Standfast, s3_server: ObjectServer, place: str, pool: Pool
) -> None:
    """A snapshot goes to a bucket, is proven there without a key, and comes back."""
    dataset = pool.dataset(f"s3-{place[-8:]}", FILES)
    bare = f"s3://{place}"
    flag = ("--endpoint", s3_server.endpoint)
    path = command.folder / "vault"
    words = ("--segment-size", "64k", *flag)
    made = make_vault(command, path, *words, address=bare)
    sent = command("backup", "send", f"{dataset}@s1", bare, *flag, "--json").json()
    assert sent["stored_bytes"] > 700_000
    address = s3_server.address(place)
    proven = command("backup", "verify", bare, *flag).out
    assert "as the store noted it" in proven
    assert "1 of 1 archives are whole" in proven
    fetched = command("backup", "verify", address, "--fetch", "--json").json()
    assert (True, False) == (fetched["ok"], fetched["recorded_hashes"])
    opened = ("--identity", made.key)
    command("backup", "verify", address, "--level", "decrypt", *opened)
    target = f"back-{place[-8:]}"
    name = f"{pool.name}/{target}"
    command("backup", "restore", address, f"{dataset}@s1", name, *opened)
    assert FILES == pool.tree(target)
    kit = command("backup", "kit", bare, *flag).out
    assert f"standfast backup list {address}" in kit
    elsewhere = command.elsewhere()
    listed = elsewhere("backup", "list", address, "--signer", made.signer, *opened)
    assert f"{dataset}@s1" in listed.out
    again = command("backup", "init", address, "--recipient", made.recipient, ok=1)
    assert "there is a vault" in error_line(again)
    assert not any("part-" in key for key in keys(s3_server, place))


def test_credentials_from_a_file(
    standfast: Standfast, s3_server: ObjectServer, place: str
) -> None:
    """Keys, profile and endpoint are found by boto3's own rules."""
    folder = standfast.folder / ".aws"
    folder.mkdir()
    pair = s3_server.env()
    (folder / "credentials").write_text(
        "[off-site]\n"
        f"aws_access_key_id = {pair['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {pair['AWS_SECRET_ACCESS_KEY']}\n"
    )
    (folder / "config").write_text(
        f"[profile off-site]\nregion = x\nendpoint_url = {s3_server.endpoint}\n"
    )
    client = Standfast(standfast.folder, standfast.env | {"AWS_PROFILE": "off-site"})
    made = made_at(client, f"s3://{place}")
    client("backup", "send", "--stdin", "x", made.address, stdin=DATA)
    client("backup", "verify", made.address)
    assert [] != keys(s3_server, place, "SHA256SUMS.minisig")


def quickly(command: Standfast, *words: object, ok: int) -> str:
    """Run what must fail at once, not after two minutes of trying; return why."""
    start = time.monotonic()
    ran = command("backup", *words, stdin=DATA, ok=ok)
    assert time.monotonic() - start < 15
    return error_line(ran) + "\n" + ran.err


def test_what_no_second_try_can_help(
    command: Standfast, standfast: Standfast, s3_server: ObjectServer, place: str
) -> None:
    """Wrong keys, none, too few rights, no bucket: one line, a hint, at once."""
    made = made_at(command, s3_server.address(place))
    send = ("send", "--stdin", "x", made.address)
    wrong = s3_server.command(standfast, **s3_server.env(secret="wrong"))
    text = quickly(wrong, *send, ok=1)
    assert "SignatureDoesNotMatch" in text
    assert "hint: boto3 looks in AWS_ACCESS_KEY_ID" in text
    env = standfast.env | {"AWS_EC2_METADATA_DISABLED": "true"}
    text = quickly(Standfast(standfast.folder, env), *send, ok=1)
    assert "unable to locate credentials" in text
    assert "hint: boto3 looks in" in text
    reader = s3_server.command(standfast, **s3_server.env(key=READER))
    assert "AccessDenied" in quickly(reader, *send, ok=1)
    reader("backup", "verify", made.address)
    gone = s3_server.address("no-such-bucket/x")
    text = quickly(command, "list", gone, ok=10)
    assert "no vault at" in text
    text = quickly(command, "send", "--stdin", "x", gone, ok=10)
    assert [] == keys(s3_server, place, "0.zst.age")


def test_without_boto3(standfast: Standfast) -> None:
    """The extra that is missing is named, with how to get it."""
    code = (
        "import sys; sys.modules['boto3'] = None\n"
        "from standfast.cli import main\n"
        "sys.exit(main(['backup', 'list', 's3://bucket/prefix']))"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, env=standfast.env, check=False)
    assert 2 == done.returncode
    assert b"needs the Python package boto3" in done.stderr
    assert b"standfast[s3]" in done.stderr


@pytest.mark.parametrize("after", [3_000, 400_000, 900_000])
def test_cut_connections(
    command: Standfast, s3_server: ObjectServer, place: str, link: Link, after: int
) -> None:
    """A connection that is cut in mid-object is made again; the send commits."""
    made = made_at(command, s3_server.address(place, link.port), "256k")
    link.cut_after(after)
    words = ("backup", "send", "--stdin", "x", made.address)
    told = command(*words, stdin=DATA).err
    assert 1 == link.cuts
    assert "; try 2" in told
    command("backup", "verify", made.address, "--fetch")
    out = command.folder / "out"
    link.cut_after(500_000)
    restore = ("backup", "restore", made.address, "x", "-o", out, "-i", made.key)
    assert "; try 2" in command(*restore).err
    assert DATA == out.read_bytes()
    assert 2 == link.cuts


def test_an_answer_that_was_lost(
    command: Standfast, s3_server: ObjectServer, place: str, link: Link
) -> None:
    """Stored, though the connection took the answer along: ours, and no rival's."""
    made = made_at(command, s3_server.address(place, link.port), "256k")
    source = command.folder / "source"
    source.write_bytes(DATA)
    link.mute_after(300_000)
    words = ("backup", "send", "--stdin", "x", made.address)
    with source.open("rb") as file, command.start(*words, stdin=file) as process:
        wait_until(lambda: keys(s3_server, place, ".zst.age"), "an object")
        time.sleep(0.2)
        link.cut()
        _, err = process.communicate(timeout=60)
    assert 0 == process.returncode, err
    assert b"; try 2" in err
    command("backup", "verify", made.address)


def test_throttled(command: Standfast, s3_server: ObjectServer, place: str) -> None:
    """503 SlowDown to every fourth request: slower, and nothing else."""
    count = iter(range(1_000_000))

    def answer(_head: bytes) -> bytes | None:
        if next(count) % 4 == 3:
            return refusal("503 Slow Down", "SlowDown")
        return None

    link = HttpLink(s3_server.port, lambda _: None)
    try:
        made = made_at(command, s3_server.address(place, link.port), "256k")
        link.answer = answer
        send = ("backup", "send", "--stdin", "x", made.address)
        assert "SlowDown" in command(*send, stdin=DATA).err
        verified = command("backup", "verify", made.address, "--fetch", "--json")
        assert verified.json()["ok"]
        link.answer = lambda _: refusal("503 Slow Down", "SlowDown")
        words = ("backup", "send", "--stdin", "y", made.address, "--retry-for", "1s")
        assert "SlowDown" in error_line(command(*words, stdin=DATA, ok=1))
    finally:
        link.close()
    listed = command("backup", "verify", s3_server.address(place), "--json").json()
    assert ["committed"] == [a["state"] for a in listed["archives"]]


def test_the_server_is_killed(standfast: Standfast) -> None:
    """In the middle of a send: no backup; back again, clean and send do their work."""
    with object_server() as server:
        command = server.command(standfast)
        made = made_at(command, server.address("vaults/killed"))
        words = ("backup", "send", "--stdin", "x", made.address, "--retry-for")
        feed = ["sh", "-c", "cat source; sleep 60"]
        (command.folder / "source").write_bytes(DATA)
        with subprocess.Popen(
            feed, stdout=subprocess.PIPE, cwd=command.folder
        ) as source:
            assert source.stdout is not None
            with command.start(*words, "1s", stdin=source.stdout) as process:
                wait_until(
                    lambda: len(server.keys("vaults", "killed/archives/")) > 3, "work"
                )
                server.kill()
                source.kill()
                _, err = process.communicate(timeout=60)
        assert 1 == process.returncode
        assert b"could not connect" in err.lower() or b"onnection" in err
        server.start_again()
        assert [] == [k for k in server.keys("vaults") if "archives" in k
                      and k.endswith("minisig")]  # fmt: skip
        listed = command("backup", "list", made.address, "--json").json()
        assert ["unfinished"] == [a["state"] for a in listed["archives"]]
        command("backup", "verify", made.address)
        command("backup", "clean", made.address)
        assert [] == server.keys("vaults", "killed/archives/")
        command(*words, "30s", stdin=DATA)
        command("backup", "verify", made.address)


def test_the_server_is_back_in_time(standfast: Standfast) -> None:
    """Killed and started again within the sender's patience: the send commits."""
    with object_server() as server:
        command = server.command(standfast)
        made = made_at(command, server.address("vaults/again"))
        words = ("backup", "send", "--stdin", "x", made.address, "--retry-for", "60s")
        (command.folder / "source").write_bytes(DATA)
        feed = ["sh", "-c", "head -c 500000 source; sleep 3; tail -c +500001 source"]
        with subprocess.Popen(
            feed, stdout=subprocess.PIPE, cwd=command.folder
        ) as source:
            assert source.stdout is not None
            with command.start(*words, stdin=source.stdout) as process:
                wait_until(
                    lambda: len(server.keys("vaults", "again/archives/")) > 3, "work"
                )
                server.kill()
                time.sleep(2)
                server.start_again()
                _, err = process.communicate(timeout=100)
        assert 0 == process.returncode, err
        assert b"; try 2" in err
        command("backup", "verify", made.address, "--fetch")


def test_interrupted_while_the_server_is_silent(
    command: Standfast, s3_server: ObjectServer, place: str, link: Link
) -> None:
    """Ctrl-C ends a send within moments, though the server answers nothing."""
    made = made_at(command, s3_server.address(place, link.port), "256k")
    client = marked(command)
    (command.folder / "source").write_bytes(DATA)
    link.stall_after(400_000)
    with (command.folder / "source").open("rb") as file:
        words = ("backup", "send", "--stdin", "x", made.address)
        with client.start(*words, stdin=file) as process:
            wait_until(lambda: link.stalled, "the stall")
            time.sleep(0.3)
            assert 130 == interrupt(process, signal.SIGINT)
    assert PROMPT_SECONDS
    assert_no_survivors(client)
    listed = command("backup", "list", s3_server.address(place), "--json").json()
    assert "committed" not in {a["state"] for a in listed["archives"]}


def test_what_was_done_in_the_bucket(
    command: Standfast, s3_server: ObjectServer, place: str
) -> None:
    """An object altered, cut, added or gone is named, without a key."""
    made = made_at(command, s3_server.address(place))
    command("backup", "send", "--stdin", "x", made.address, stdin=DATA)
    client = s3_server.client()
    names = keys(s3_server, place, ".zst.age")
    whole = {k: client.get_object(Bucket="vaults", Key=k)["Body"].read() for k in names}
    flipped = bytearray(whole[names[0]])
    flipped[len(flipped) // 2] ^= 1
    client.put_object(Bucket="vaults", Key=names[0], Body=bytes(flipped))
    assert names[0].partition("/")[2] in findings(command, made)
    client.put_object(Bucket="vaults", Key=names[0], Body=whole[names[0]])
    assert "" == findings(command, made, 0)
    client.put_object(Bucket="vaults", Key=names[1], Body=whole[names[1]][:-1])
    assert "bytes" in findings(command, made) or "size" in findings(command, made)
    client.delete_object(Bucket="vaults", Key=names[1])
    assert names[1].partition("/")[2] in findings(command, made)
    client.put_object(Bucket="vaults", Key=names[1], Body=whole[names[1]])
    client.put_object(Bucket="vaults", Key=f"{prefix_of(place)}foreign", Body=b"x")
    assert "foreign" in findings(command, made, None)


def findings(command: Standfast, made: Made, ok: int | None = 13) -> str:
    found = command("backup", "verify", made.address, "--json", ok=ok).json()
    return "\n".join(f"{f['object']}: {f['text']}" for f in found["findings"])


def test_clean_ends_uploads_that_were_cut(
    command: Standfast, s3_server: ObjectServer, place: str
) -> None:
    """Multipart uploads that somebody's copy left are shown, and go."""
    made = made_at(command, s3_server.address(place))
    client = s3_server.client()
    command("backup", "send", "--stdin", "x", made.address, stdin=b"x")
    key = f"{keys(s3_server, place, 'SHA256SUMS')[-1]}.copied"
    client.create_multipart_upload(Bucket="vaults", Key=key)
    assert ".part-" in command("backup", "verify", made.address).out
    command("backup", "clean", made.address)
    found = client.list_multipart_uploads(Bucket="vaults", Prefix=prefix_of(place))
    assert [] == found.get("Uploads", [])
    assert ".part-" not in command("backup", "verify", made.address).out


def test_a_locked_vault(command: Standfast, s3_server: ObjectServer) -> None:
    """`--object-lock` on init and send: every version stays, whoever deletes."""
    bucket = f"locked-{os.urandom(4).hex()}"
    address = s3_server.address(f"{bucket}/v")
    made = made_at(command, address, "64k", "--object-lock", "3")
    words = ("backup", "send", "--stdin", "x", made.address, "--object-lock", "3")
    command(*words, stdin=b"x" * 100_000)
    command("backup", "verify", made.address)
    client = s3_server.client()
    names = s3_server.keys(bucket)
    assert len(names) >= 8
    for name in names:
        kept = client.get_object_retention(Bucket=bucket, Key=name)["Retention"]
        assert "COMPLIANCE" == kept["Mode"]
    refused = command("backup", "send", "--stdin", "y", "/tmp/x", "--object-lock", "3",
                      stdin=b"x", ok=2)  # fmt: skip
    assert "--object-lock is for s3://" in error_line(refused)
