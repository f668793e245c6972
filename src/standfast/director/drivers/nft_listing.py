"""What ``nft -j list table`` says, read into what is observed; pure.

Format: libnftables-json(5), schema version 1.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from standfast.director.drivers.nft_rules import (
    Maps,
    pin_data,
    pin_map,
    place,
    slot_data,
    table_kind,
)
from standfast.director.model import Address, Observed, Pin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from standfast.director.model import Service, Wanted

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class NftObserved(Observed):
    """What nft lists.

    Attributes:
        maps: elements of every map and set that we change in place, or that learns.
        sealed: whether the rules are those we loaded.
        tables: nft families in which our table exists.
    """

    maps: Maps = field(default_factory=dict)
    sealed: bool = False
    tables: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Learned:
    """A flow that the rules have seen, without conntrack.

    Attributes:
        kind: the family of nft of its set.
        place: what the set's name ends with; see nft_rules.place.
        client: who opened it.
        seconds: until it is forgotten, if nothing more is heard.
    """

    kind: str
    place: str
    client: Address
    seconds: int


def read_listings(listings: Mapping[str, Rows], wanted: Wanted) -> NftObserved:
    """Turn ``nft -j list table`` of each family into what is observed."""
    maps: Maps = {}
    marks, sealed = set(), bool(listings)
    for kind, rows in listings.items():
        names = [row["chain"]["name"] for row in rows if "chain" in row]
        marks |= {name[3:] for name in names if name.startswith("is_")}
        sealed = sealed and f"seal_{seal(rows)}" in names
        for body in _bodies(rows):
            if not body["name"].startswith("b_"):
                maps[kind, body["name"]] = dict(_elements(body.get("elem", [])))
    guarded = [v for (_, name), v in maps.items() if name.startswith("guarded")]
    return NftObserved(
        present=bool(listings),
        fingerprint=marks.pop() if len(marks) == 1 else "",
        guard=any(guarded) if guarded else None,
        table={s.name: _named(maps, wanted, s) for s in wanted.services},
        pins=tuple(_named_pins(maps, wanted)),
        problems=() if sealed or not listings else ("the rules were altered",),
        maps=maps,
        sealed=sealed,
        tables=frozenset(listings),
    )


def learned(kind: str, rows: Rows) -> Iterator[Learned]:
    """Yield the flows that are open, of one listing."""
    for body in _bodies(rows):
        if body["name"].startswith("l_"):
            for item in body.get("elem", []):
                inner = item.get("elem", item)
                ip, port = inner.get("val", inner)["concat"]
                client = Address(ip, int(port))
                yield Learned(kind, body["name"][2:], client, inner.get("expires", 0))


def places(wanted: Wanted) -> dict[tuple[str, str], tuple[Address, Address]]:
    """Return virtual address and backend's address of each learned set."""
    found = {}
    for service in wanted.services:
        if service.mode == "nat":
            continue
        for number, virtual in enumerate(service.virtual):
            for name in service.backends:
                there = wanted.backends[name].at(service.name, virtual)
                assert there is not None
                key = (table_kind(service, virtual), place(service, number, name))
                found[key] = (virtual, there)
    return found


def seal(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return 16 hex digits over rules, chains and fixed sets as nft lists them."""
    kept = []
    for row in rows:
        for what, body in row.items():
            if what not in {"rule", "chain", "map", "set"}:
                continue
            fixed = {k: v for k, v in body.items() if k != "handle"}
            if not str(body.get("name", "")).startswith("b_"):
                fixed.pop("elem", None)
            if not str(body.get("name", "")).startswith("seal_"):
                kept.append(json.dumps([what, fixed], sort_keys=True))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


def _bodies(rows: Rows) -> Iterator[dict[str, Any]]:
    for row in rows:
        body = row.get("map") or row.get("set")
        if body is not None:
            yield body


def _elements(listed: Sequence[Any]) -> Iterator[tuple[str, str]]:
    for item in listed:
        if isinstance(item, list):
            yield _word(item[0]), _word(item[1])
        else:
            yield _word(item), ""


def _word(value: Any) -> str:  # noqa: ANN401 - as JSON has it
    if isinstance(value, dict) and "elem" in value:
        return _word(value["elem"]["val"])
    if isinstance(value, dict) and "concat" in value:
        return " . ".join(str(part) for part in value["concat"])
    if isinstance(value, dict) and "goto" in value:
        return f"goto {value['goto']['target']}"
    return str(value)


def _named(maps: Maps, wanted: Wanted, service: Service) -> tuple[str, ...]:
    """Return who the kernel sends each slot to; the first virtual address speaks."""
    kind = table_kind(service, service.virtual[0])
    held = maps.get((kind, f"m_{service.name}_0"), {})
    names = {
        slot_data(service, 0, wanted.backends[name]): name for name in service.backends
    }
    if not held:
        return ()
    slots = range(service.slots)
    return tuple(names.get(held.get(str(slot), ""), "") for slot in slots)


def _named_pins(maps: Maps, wanted: Wanted) -> Iterator[Pin]:
    for service in wanted.services:
        for number, virtual in enumerate(service.virtual):
            there = {
                pin_data(service, number, wanted.backends[b]): b
                for b in service.backends
            }
            for key, value in maps.get(pin_map(service, virtual), {}).items():
                ip, port, vip, vport = key.split(" . ")
                client = Address(ip, int(port), virtual.proto)
                if (vip, int(vport)) == (virtual.ip, virtual.port) and value in there:
                    yield Pin(client, virtual, there[value], 0.0)
