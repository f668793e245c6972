"""backup.toml: what it says, its defaults, and mistakes by their path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from conftest import ROOT

from standfast.backup.config import (
    JobSection,
    KeepSection,
    NotifySection,
    VaultSection,
    parse_config,
)
from standfast.backup.schedule import DAY, Schedule
from standfast.errors import UsageError

if TYPE_CHECKING:
    from standfast.config import Section

GOOD = """
[vault.usb]
address = "/mnt/usb/vault"

[vault.office]
address = "ssh://backup@office/srv/vault"
bandwidth = "08:00-18:00 = 1M, else unlimited"
verify = "7d"
keep = { daily = 7, monthly = 12 }

[job.home]
datasets = ["tank/home", "tank/vm/*"]
exclude = ["tank/home/*/cache"]
recursive = true
keep = { last = 3 }

[job.hourly]
datasets = ["tank/db"]
vaults = ["office"]
every = "1h"
raw = true
before = ["/usr/local/bin/quiesce", "db"]
"""


def test_values_and_defaults() -> None:
    config = parse_config(GOOD)
    home, hourly = config.jobs["home"], config.jobs["hourly"]

    assert ["usb", "office"] == [place.name for place in home.places]
    assert ["office"] == [place.name for place in hourly.places]
    assert Schedule(DAY) == home.schedule
    assert Schedule(7 * DAY) == config.places["office"].verify
    assert 1.25 * DAY == home.max_age
    assert "home-%Y-%m-%d-%H%M%S" == home.naming.pattern
    assert ("-w",) == hourly.flags
    assert "recovery" == config.notify.when


def test_jobs_are_chosen_by_name() -> None:
    config = parse_config(GOOD)

    assert ["home", "hourly"] == [job.name for job in config.chosen([])]
    assert ["hourly"] == [job.name for job in config.chosen(["hourly"])]
    with pytest.raises(UsageError, match="there is no job hom") as caught:
        config.chosen(["hom"])
    assert "did you mean home?" == caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("recursive", "recursiv", "job.home.recursiv: there is no such key", "ive?"),
        (
            '["office"]',
            '["ofice"]',
            "job.hourly.vaults: there is no vault ofice",
            "mean",
        ),
        ('"1h"', '"5h"', "job.hourly.every: a period must divide a day", "15m"),
        ('"1h"', '"often"', "job.hourly.every: not a duration: often", "30s"),
        ('"7d"', '"weekly"', "vault.office.verify: not a duration", ""),
        ("08:00-18:00", "8-18", "vault.office.bandwidth: not a span of time", "08:00"),
        ('["tank/db"]', "[]", "job.hourly.datasets: there is none", ""),
        ('["tank/db"]', '"tank/db"', "job.hourly.datasets: expected array", ""),
        ('["tank/db"]', '["tank/db@x"]', "job.hourly.datasets: this is a snap", "name"),
        ('["tank/db"]', '["*"]', "job.hourly.datasets: a pattern must begin", "tank"),
        (
            '"/mnt/usb/vault"',
            '"vault"',
            "vault.usb.address: a directory must",
            "timers",
        ),
        ('"/mnt/usb/vault"', '""', "vault.usb.address: it is empty", ""),
        (
            '"/mnt/usb/vault"',
            '"ssh://backup@office/srv/vault"',
            "vault.office.address: the same as that of vault.usb",
            "",
        ),
        ("last = 3", "lasst = 3", "job.home.keep.lasst: there is no such key", "last"),
        ("last = 3", "minimum = 3", "job.home.keep: it keeps nothing", "daily = 7"),
        ("last = 3", "last = -3", "job.home.keep.last: -3 is not between", ""),
        ("raw = true", 'send_flags = ["-n"]', "job.hourly.send_flags: zfs send -n", ""),
        ("raw = true", "compression_level = 20", "job.hourly.compression_level", ""),
        ("raw = true", 'name = "daily"', "job.hourly.name: the date is not whole", ""),
        ("[job.hourly]", "[job.'a b']", "job.a b: a name is up to 40 letters", ""),
        ("[job.hourly]", "[jobs.hourly]", "jobs: there is no such key", "mean job?"),
    ],
)
def test_mistakes(old: str, new: str, message: str, hint: str) -> None:
    """Each is named by its path, with a hint where there is one to give."""
    text = GOOD.replace(old, new)
    assert text != GOOD
    with pytest.raises(UsageError) as caught:
        parse_config(text)

    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "object missing required field vault"),
        ("[vault]\n[job]", "vault: there is none"),
        ('[vault.a]\naddress = "/a"\n[job]', "job: there is none"),
        ("[vault.a\n", "is not toml"),
    ],
)
def test_files_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_config(text)


def test_a_token_needs_somewhere_to_go() -> None:
    with pytest.raises(UsageError, match=r"notify\.token_file: there is no webhook"):
        parse_config(GOOD + '[notify]\ntoken_file = "/etc/token"\n')


@pytest.mark.parametrize("kind", [VaultSection, JobSection, NotifySection, KeepSection])
def test_every_key_is_documented(kind: type[Section]) -> None:
    """The reference has a row for each, and the file at its head is good."""
    page = (ROOT / "docs" / "backup-config.md").read_text()
    rows = {
        word for row in page.splitlines() if row[:2] == "| " for word in row.split()
    }
    for field in msgspec.structs.fields(kind):
        assert rows & {f"`{field.name}`", f"`{field.name}`,"}, field.name
    example = page.partition("```toml\n")[2].partition("```")[0]
    assert {"home", "db"} == set(parse_config(example).jobs)
