"""The pure parts: health fold, Maglev table, planner, configuration."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.director.config import parse_config
from standfast.director.health import (
    Health,
    Outcome,
    Pace,
    Verdict,
    fold,
    next_interval,
)
from standfast.director.maglev import full_table, jhash, moved, table_for
from standfast.director.model import (
    Address,
    Backend,
    BackendState,
    Service,
    parse_address,
)
from standfast.director.plan import (
    Configured,
    Inherited,
    Ordered,
    Policy,
    Probed,
    State,
    backend_state,
    serving,
    step,
    tables,
)
from standfast.errors import UsageError

PASS, FAIL = Outcome(Verdict.PASS), Outcome(Verdict.FAIL, "refused")
CANNOT_TELL = Outcome(Verdict.UNKNOWN)
UNDAMPED = Pace(damp_limit=0)


@given(
    st.lists(st.sampled_from([PASS, FAIL, CANNOT_TELL]), max_size=60),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_the_fold_never_flips_twice_within_rise_and_fall(
    outcomes: list[Outcome], rise: int, fall: int
) -> None:
    """Every flip to up has ``rise`` passes in a row behind it, to down ``fall``."""
    pace = Pace(rise=rise, fall=fall, damp_limit=0)
    health, told, flips = Health(), list[Verdict](), list[int]()
    for at, outcome in enumerate(outcomes):
        before, health = health, fold(health, outcome, at, pace)
        if outcome.verdict is not Verdict.UNKNOWN:
            told.append(outcome.verdict)
        if health.state is before.state:
            continue
        need, what = (
            (rise, Verdict.PASS)
            if health.state is BackendState.UP
            else (fall, Verdict.FAIL)
        )
        assert [what] * need == told[-need:]
        flips.append(len(told))
    gaps = [b - a for a, b in pairwise(flips)]
    assert all(gap >= min(rise, fall) for gap in gaps)


def test_one_result_is_no_state() -> None:
    """Unlike hfm's, the first result is debounced as any other."""
    health = fold(Health(), FAIL, 0, UNDAMPED)
    assert health.state is BackendState.UNKNOWN
    assert next_interval(health, UNDAMPED) == UNDAMPED.fast


def test_a_flapping_backend_is_held_back_and_let_in_later() -> None:
    pace = Pace(rise=1, fall=1, damp_limit=3, damp_half_life=10)
    health = Health()
    for at in range(4):
        health = fold(health, FAIL, at, pace)
        health = fold(health, PASS, at, pace)
    assert health.held
    assert health.state is BackendState.DOWN
    assert fold(health, PASS, 100, pace).state is BackendState.UP


MEMBERS = st.integers(2, 12)


@given(MEMBERS, st.integers(0, 2**32 - 1), st.data())
def test_removal_moves_only_what_it_must(
    count: int, seed: int, data: st.DataObject
) -> None:
    """Whoever else is out: only the slots of the removed one change hands."""
    names = [f"h{i}" for i in range(count)]
    weights = tuple((name, 1) for name in names)
    present = data.draw(st.sets(st.sampled_from(names), min_size=2))
    gone = data.draw(st.sampled_from(sorted(present)))
    before = table_for(weights, frozenset(present), 251, seed)
    after = table_for(weights, frozenset(present - {gone}), 251, seed)
    assert before.count(gone) == moved(before, after)


@given(MEMBERS, st.integers(0, 2**32 - 1))
def test_removal_of_one_of_n_moves_one_nth(count: int, seed: int) -> None:
    weights = tuple((f"h{i}", 1) for i in range(count))
    whole = frozenset(name for name, _ in weights)
    before = table_for(weights, whole, 1021, seed)
    after = table_for(weights, whole - {"h0"}, 1021, seed)
    assert moved(before, after) <= -(-1021 // count)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(0, 99))
def test_shares_follow_the_weights(weights: list[int], seed: int) -> None:
    """To within one turn of everybody."""
    members = tuple((f"h{i}", w) for i, w in enumerate(weights))
    table = full_table(members, 1021, seed)
    for name, weight in members:
        exact = 1021 * weight / sum(weights)
        assert abs(table.count(name) - exact) <= len(weights) + 1


@given(st.permutations([f"h{i}" for i in range(6)]))
def test_the_table_depends_on_no_order(names: list[str]) -> None:
    weights = tuple((name, 1) for name in names)
    alive = frozenset(names[:4])
    again = tuple(sorted(weights))
    assert table_for(again, alive, 251, 7) == table_for(weights, alive, 251, 7)


def test_jhash_of_the_kernel() -> None:
    """Lookup3 of nothing but its seed is fixed by the algorithm; length counts."""
    assert jhash(b"\0" * 8, 0) != jhash(b"\0" * 20, 0)
    assert 0 <= jhash(bytes(range(20)), 0x5EED) < 2**32


def farm(count: int = 3, **policy: object) -> State:
    backends = {
        f"h{i}": Backend(f"h{i}", Address(f"10.0.0.{i}")) for i in range(1, count + 1)
    }
    service = Service("web", (Address("192.0.2.1", 80),), tuple(backends), slots=251)
    event = Configured(
        (service,),
        backends,
        dict.fromkeys(backends, Pace(rise=1, fall=1, damp_limit=0)),
        Policy(**policy),  # type: ignore[arg-type]
        0,
    )
    return step(State(), event).state


def play(state: State, *results: tuple[str, Outcome]) -> State:
    for at, (name, outcome) in enumerate(results):
        state = step(state, Probed(name, outcome, at)).state
    return state


def members(state: State) -> set[str]:
    return set(serving(state, state.services[0]))


def test_unknown_is_not_down() -> None:
    assert members(farm()) == {"h1", "h2", "h3"}


def test_what_the_kernel_had_is_taken_up_and_a_newcomer_must_rise() -> None:
    state = step(farm(), Inherited({"web": frozenset({"h1", "h2"})})).state
    assert members(state) == {"h1", "h2"}
    assert members(play(state, ("h3", PASS))) == {"h1", "h2", "h3"}


def test_one_falls_and_the_sentence_says_why() -> None:
    done = step(farm(), Probed("h2", FAIL, 1))
    assert done.sentence == "h2 is down: refused; web is served by h1, h3"
    assert [change.service for change in done.changes] == ["web"]


def test_all_fail_open() -> None:
    results = [(f"h{i}", FAIL) for i in (1, 2, 3)]
    assert members(play(farm(), *results)) == {"h1", "h2", "h3"}
    assert members(play(farm(fail_open=False), *results)) == set()


def test_a_service_may_have_bounds_of_its_own() -> None:
    """One fails closed while the others fail open, and one lets nobody out."""
    text = GOOD + "".join(
        f'[service.{name}]\nvirtual = ["192.0.2.1:{port}"]\n{more}\n'
        for name, port, more in (
            ("closed", 81, "fail_open = false"),
            ("kept", 82, "max_out = 0.0"),
        )
    )
    config = parse_config(text.replace("20ms", '20ms"\nrise = 1\nfall = 1\nbody = "'))
    state = step(
        State(),
        Configured(config.services, config.backends, config.paces, config.policy, 0),
    ).state
    by_name = {service.name: service for service in state.services}

    def serve(state: State) -> dict[str, int]:
        return {name: len(serving(state, by_name[name])) for name in by_name}

    one = play(state, ("h1", FAIL), ("h2", PASS))
    assert {"web": 1, "closed": 1, "kept": 1} == serve(one)
    assert {"web": 2, "closed": 0, "kept": 2} == serve(play(one, ("h2", FAIL)))
    with pytest.raises(UsageError, match=r"service\.kept\.max_out: 2 is not"):
        parse_config(text.replace("max_out = 0.0", "max_out = 2.0"))


def test_the_cap_keeps_the_last_to_fall() -> None:
    state = play(farm(4, max_out=0.5), ("h3", FAIL), ("h1", FAIL), ("h2", FAIL))
    assert members(state) == {"h4", "h2"}
    done = step(
        play(farm(4, max_out=0.5), ("h3", FAIL), ("h1", FAIL)), Probed("h2", FAIL, 9)
    )
    assert "h2 stays in web: no more may be out at once" in done.sentence


def test_an_order_outlives_its_probes_and_the_last_one_may_not_go() -> None:
    state = step(farm(2), Ordered("h1", "drain", 1)).state
    state = play(state, ("h1", PASS), ("h2", PASS))
    assert backend_state(state, "h1") is BackendState.DRAINING
    refused = step(state, Ordered("h2", "disable", 2))
    assert refused.refused
    assert refused.sentence == "refused: h2 is the last that serves web"
    forced = step(state, Ordered("h2", "disable", 2, "force"))
    assert members(forced.state) == set()
    assert tables(forced.state)["web"] == ()


def test_an_agent_drains_and_takes_weight_away() -> None:
    asks = Outcome(Verdict.PASS, "drain", drain=True)
    assert members(play(farm(), ("h1", asks))) == {"h2", "h3"}
    half = play(farm(), ("h1", Outcome(Verdict.PASS, "50%", share=50)))
    counts = [tables(half)["web"].count(n) for n in ("h1", "h2", "h3")]
    assert counts == [51, 100, 100] or abs(counts[0] * 2 - counts[1]) <= 4


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["h1", "h2", "h3", "h4"]), st.sampled_from([PASS, FAIL])
        ),
        max_size=30,
    ),
    st.floats(0, 1),
)
def test_never_empty_and_never_past_the_cap(
    results: list[tuple[str, Outcome]], cap: float
) -> None:
    """Failing open, probes alone never empty a service nor take out too many."""
    state = play(farm(4, max_out=cap), *results)
    down = 4 - len(members(state))
    assert down <= min(3, max(1, int(cap * 4)))
    assert len(tables(state)["web"]) == 251


GOOD = """
[service.web]
virtual = ["192.0.2.1:80"]
[backend.h1]
address = "10.0.0.1"
[backend.h2]
address = "10.0.0.2"
[probe.p]
type = "http"
interval = "20ms"
"""


def test_a_configuration_and_its_defaults() -> None:
    config = parse_config(GOOD)
    assert config.services[0].backends == ("h1", "h2")
    assert config.paces["h1"].interval == 0.02
    assert config.probe("h2").deadline_seconds() == 0.02


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("type", "tyype", "probe.p.tyype: there is no such key", "did you mean type?"),
        ("[probe.p]", "[prob.p]", "prob: there is no such key", "did you mean probe?"),
        ('"http"', "7", "probe.p.type: expected", ""),
        ("20ms", "1ms", "probe.p.interval: 0.001 is not between", ""),
        (":80", "", "service.web.virtual: a port is missing", "as in"),
        ("10.0.0.1", "10.0.0", "backend.h1.address: '10.0.0'", ""),
        ("[backend.h2]", "[backend.H2]", "backend.H2: a name", ""),
    ],
)
def test_errors_say_where_and_what_was_meant(
    old: str, new: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_config(GOOD.replace(old, new))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_two_virtual_addresses_need_two_ways_back() -> None:
    text = GOOD.replace('["192.0.2.1:80"]', '["192.0.2.1:80", "192.0.2.2:80"]')
    with pytest.raises(UsageError, match=r"both 192.0.2.1:80 and 192.0.2.2:80"):
        parse_config(text)


@pytest.mark.parametrize("text", ["192.0.2.1", "192.0.2.1:80", "2001:db8::1"])
def test_addresses_print_as_they_were_read(text: str) -> None:
    assert text == str(parse_address(text))
    assert str(parse_address("[2001:db8::1]:80")) == "[2001:db8::1]:80"
