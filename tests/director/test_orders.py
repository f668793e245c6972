"""Orders given to one director hold on both: the laws; test_pair.py has daemons."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.director import plan
from standfast.director.health import Pace
from standfast.director.model import Address, Backend, BackendState, Service
from standfast.director.orders import BODY_MAX, orders_bodies, read_orders
from standfast.director.pins import PartError

NAMES = ("h1", "h2", "h3")
ORDER_WORDS: tuple[plan.Order, ...] = ("drain", "undrain", "disable")


def fresh() -> plan.State:
    backends = {n: Backend(n, Address(f"10.0.0.{i}", 80)) for i, n in enumerate(NAMES)}
    service = Service("web", (Address("192.0.2.1", 80),), NAMES)
    paces = dict.fromkeys(NAMES, Pace())
    configured = plan.Configured((service,), backends, paces, plan.Policy(), 0.0)
    return plan.step(plan.State(), configured).state


def give(state: plan.State, name: str, order: plan.Order, now: float) -> plan.State:
    at = plan.next_order_time(state, name, now)
    return plan.step(state, plan.Ordered(name, order, at, "force")).state


def hear(state: plan.State, told: tuple[plan.Told, ...]) -> plan.State:
    for each in told:
        state = plan.step(state, each).state
    return state


def admins(state: plan.State) -> dict[str, BackendState]:
    return {name: entry.admin for name, entry in state.entries.items()}


GIVEN = st.tuples(
    st.integers(0, 1), st.sampled_from(NAMES), st.sampled_from(ORDER_WORDS)
)


@given(
    st.lists(GIVEN, max_size=8),
    st.lists(st.integers(0, 20), max_size=12),
    st.floats(-99, 99),
)
def test_two_directors_come_to_agree(
    given_orders: list[tuple[int, str, plan.Order]], heard: list[int], skew: float
) -> None:
    """Whatever was lost, repeated or late, once both have heard all they agree."""
    sides = [fresh(), fresh()]
    said: list[tuple[int, tuple[plan.Told, ...]]] = []
    for moment, (side, name, order) in enumerate(given_orders, 1000):
        sides[side] = give(sides[side], name, order, moment + side * skew)
        said.append((1 - side, plan.orders(sides[side])))
    for number in heard:
        if number < len(said):
            to, told = said[number]
            sides[to] = hear(sides[to], told)
    for side in (0, 1, 0):
        sides[1 - side] = hear(sides[1 - side], plan.orders(sides[side]))
    assert admins(sides[0]) == admins(sides[1])
    assert plan.orders(sides[0]) == plan.orders(sides[1])


@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(ORDER_WORDS)), min_size=1
    ),
    st.floats(-9999, 9999),
)
def test_the_last_order_counts_whatever_the_clocks_say(
    given_orders: list[tuple[str, plan.Order]], skew: float
) -> None:
    """Given by turns at two directors that hear each other."""
    sides = [fresh(), fresh()]
    for moment, (name, order) in enumerate(given_orders, 10_000):
        here = moment % 2
        sides[here] = give(sides[here], name, order, moment + here * skew)
        sides[1 - here] = hear(sides[1 - here], plan.orders(sides[here]))
        word = {"drain": "draining", "disable": "disabled", "undrain": "up"}[order]
        for state in sides:
            assert word == state.entries[name].admin.value


@given(st.integers(0, 300), st.integers(1, 60))
def test_orders_survive_their_bodies(count: int, width: int) -> None:
    orders = tuple(
        plan.Told(f"{number:0{width}}", BackendState.DRAINING, number + 0.25, "")
        for number in range(1, count + 1)
    )
    bodies = list(orders_bodies(orders))
    assert all(len(body) <= BODY_MAX for body in bodies)
    found = [told for body in bodies for told in read_orders(body)]
    assert [(o.backend, o.admin, o.at) for o in orders] == [
        (o.backend, o.admin, o.at) for o in found
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}x",
        b"[1]",
        b'[["h1","gone",1]]',
        b'[["h1","up",NaN]]',
        b"[" * 9999,
        b"\xff",
    ],
)
def test_what_is_no_order_is_refused(body: bytes) -> None:
    with pytest.raises(PartError):
        read_orders(body)
