"""Facts of running machines: captures for FreeBSD, this very machine for Linux."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from standfast.errors import CommandError, UsageError
from standfast.host import Host, Result
from standfast.host.local import LocalHost
from standfast.tune import live, watch
from standfast.tune.model import GIB, Facts

if TYPE_CHECKING:
    from collections.abc import Sequence

CAPTURES = Path(__file__).parents[1] / "captures"


def capture(folder: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CAPTURES / folder / f"{name}.json").read_text())
    return found


class CapturedHost:
    """Answers from a table of commands; anything else is not there."""

    name = "captured"

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, ...]] = []

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        ok: Sequence[int] = (0,),
        timeout: float | None = None,
    ) -> Result:
        assert not stdin
        assert timeout is not None
        self.asked.append(tuple(argv))
        text = self.answers.get(" ".join(argv), self.answers.get(argv[0]))
        if text is None:
            if 1 not in ok:
                raise CommandError(f"{argv[0]} ended with status 1")
            return Result(tuple(argv), 1, b"", "")
        return Result(tuple(argv), 0, text.encode(), "")

    def spawn(self, *_: object, **__: object) -> Any:
        raise AssertionError("tune only runs commands to their end")

    def finish(self, *_: object, **__: object) -> Any:
        raise AssertionError("tune starts nothing that it would have to wait for")

    def close(self) -> None:
        """Nothing to let go of."""


def freebsd(answers: dict[str, str]) -> tuple[Facts, CapturedHost]:
    host = CapturedHost(answers)
    checked: Host = host
    return live.read_host(checked), host


def test_a_freebsd_host_is_read_and_nothing_is_written_there() -> None:
    """sysctl, kldstat, cat, find and uname: the only commands that are run."""
    taken = capture("freebsd-13.2-amd64", "sysctl")
    facts, host = freebsd(
        {
            "uname": "FreeBSD 13.2-RELEASE amd64",
            "sysctl": taken["stdout"],
            "kldstat": taken["kldstat"],
            "cat /boot/loader.conf": 'vfs.zfs.arc.max="4G"\n',
        }
    )
    assert (facts.release, facts.arch, facts.cpus) == ("13.2-RELEASE", "amd64", 8)
    assert facts.ram == 16 * GIB
    assert facts.image == 0x1F3E2D0 + 0x5B93D0
    assert [(s.name, s.text) for s in facts.settings] == [("vfs.zfs.arc.max", "4G")]
    assert {argv[0] for argv in host.asked} == {
        "uname",
        "sysctl",
        "kldstat",
        "cat",
        "find",
    }


def test_a_pae_kernel_is_told_by_its_feature() -> None:
    """kern.features.pae makes it i386-pae, and vm.kvm_size gives KVA_PAGES."""
    values = live.sysctl_values(
        "hw.machine_arch: i386\nkern.features.pae: 1\nvm.kvm_size: 1073737728\n"
    )
    facts = live.freebsd_facts(values, release="8.2-RELEASE", machine="i386")
    assert (facts.arch, facts.kva_pages) == ("i386-pae", 512)


def test_fragmentation_shows_in_a_real_sample_of_8_1() -> None:
    """size + free is 52 MB short of kmem_size on that 8.1-STABLE host."""
    taken = capture("freebsd-8.1-stable-i386", "sysctl")
    facts = live.freebsd_facts(
        live.sysctl_values(taken["stdout"]), release="8.1-STABLE", machine="i386"
    )
    said = [f.what for f in watch.findings(facts, watch.sample(facts, 1.0))]
    assert said == ["kmem is in pieces: 136.3 MiB free, the largest piece 86.7 MiB"]


def test_a_real_10_x_sample_gives_its_numbers() -> None:
    """`name: value` lines of a FreeBSD 10 amd64 host."""
    taken = capture("freebsd-10-amd64", "sysctl")
    values = live.numbers(live.sysctl_values(taken["stdout"]))
    assert values == {
        "vm.kmem_size_scale": 1,
        "vm.kmem_size_max": 1319413950874,
        "vm.kmem_size": 1017532416,
    }


def test_arcstats_are_read_past_their_two_lines_of_heading() -> None:
    """The two real lines of the capture come out as they are."""
    values = live.kstat_values(capture("openzfs-2.1-linux", "arcstats")["stdout"])
    assert (values["c_min"], values["c_max"]) == (536870912, 2147483648)


def test_every_capture_says_where_it_comes_from() -> None:
    """A made-up capture is marked as one."""
    found = sorted(CAPTURES.glob("*/*.json"))
    assert found
    for path in found:
        taken = json.loads(path.read_text())
        assert taken["source"]
        assert taken["synthesized"] in {True, False}


def test_this_linux_machine_is_read() -> None:
    """A real /proc and /sys: RAM and machine name, and whatever ZFS is there."""
    if sys.platform != "linux":
        pytest.skip("this machine does not run Linux")
    host = LocalHost()
    facts = live.read_host(host)
    host.close()
    total = int(
        next(
            line.split()[1]
            for line in Path("/proc/meminfo").read_text().splitlines()
            if line.startswith("MemTotal")
        )
    )
    assert (facts.os, facts.arch, facts.ram) == (
        "linux",
        platform.machine(),
        total * 1024,
    )
    assert (
        bool(facts.release) == Path("/sys/module/zfs/version").exists() or facts.release
    )


def test_other_systems_are_refused() -> None:
    """Darwin has neither rules nor sysctls that we know."""
    with pytest.raises(UsageError):
        freebsd({"uname": "Darwin 23.1 arm64"})


def sampled(at: float, **values: int) -> watch.Sample:
    return watch.Sample(at, values, {})


def test_rates_need_two_samples_and_counters_that_rise() -> None:
    """Events a second; none after a counter went backwards."""
    before = sampled(10.0, hits=100, misses=0)
    after = sampled(12.0, hits=280, misses=20)
    assert watch.rates(after, before) == {
        "hits": 90.0,
        "misses": 10.0,
        "hit_ratio": 0.9,
    }
    assert watch.rates(after, None) == {}
    assert watch.rates(sampled(14.0, hits=1, misses=1), after) == {}


def test_findings_arise_from_limits() -> None:
    """Over the maximum, squeezed to the minimum, throttled."""
    facts = Facts("linux", "2.1.0", "x86_64")
    calm = {"size": 50, "c": 90, "c_min": 10, "c_max": 100}
    assert watch.findings(facts, sampled(1.0, **calm)) == ()
    for change in ({"size": 200}, {"c": 10}):
        assert len(watch.findings(facts, sampled(1.0, **(calm | change)))) == 1
    throttled = watch.findings(
        facts,
        sampled(2.0, memory_throttle_count=9),
        sampled(1.0, memory_throttle_count=1),
    )
    assert ["memory_throttle_count" in f.what for f in throttled] == [True]


def test_prometheus_text_names_each_type_once() -> None:
    """TYPE before each metric, whole numbers, a trailing newline."""
    values = live.kstat_values(capture("openzfs-2.1-linux", "arcstats")["stdout"])
    facts = Facts("linux", "2.1.0", "x86_64", live=tuple(values.items()))
    lines = watch.prometheus(facts, watch.sample(facts, 1.0), None).splitlines()
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    metrics = [line.split()[0] for line in lines if not line.startswith("#")]
    assert types == metrics
    assert len(set(types)) == len(types)
    assert "standfast_tune_arc_size_bytes 1610612736" in lines
