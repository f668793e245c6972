"""The daemon: probes in, decisions through ``plan.step``, changes out.

One event loop. Everything that decides is in plan.py; here results are fetched at
their times, orders taken, and what was decided is handed to the data plane and the
election. It is never in the packets' way: when it dies the kernel goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from standfast.director import plan, record
from standfast.director.conntrack import OVER
from standfast.director.control import ControlError, serve
from standfast.director.counters import counters
from standfast.director.election.model import Role
from standfast.director.election.rank import Agreement
from standfast.director.health import next_interval
from standfast.director.leaving import is_over, with_former
from standfast.director.mastership import Mastership
from standfast.director.model import (
    BackendState,
    Wanted,
    configuration_digest,
    digest,
    parse_address,
)
from standfast.director.opening import renew
from standfast.director.peer_channel import PeerStatus
from standfast.director.peering import Peering
from standfast.director.probes import open_probe
from standfast.director.probes.wheel import Wheel
from standfast.director.view import backend_row, service_row
from standfast.director.where import Scene
from standfast.errors import StandfastError
from standfast.units import parse_duration

if TYPE_CHECKING:
    import random  # noqa: TID251 - the type; the values are handed in
    from collections.abc import Callable, Sequence

    from standfast.clock import Clock
    from standfast.director.config import Config
    from standfast.director.drivers import Driver
    from standfast.director.election import Election
    from standfast.director.election.rank import RankState
    from standfast.director.health import Outcome
    from standfast.director.model import Backend, Flow, Service
    from standfast.director.notify import Notifier
    from standfast.director.plane import Plane
    from standfast.host import Host

log = logging.getLogger("standfast.director")

JITTER = 0.05  # of an interval, so that directors do not fall into step
LEAVE_EVERY = 2.0  # seconds between two looks at who leaves
LATE_KEPT = 65536  # how many probes' lateness is remembered


class Daemon:
    """One director.

    Args:
        config: what it shall do.
        reread: reads the configuration again; raises what is wrong with it.
        driver: the data plane.
        host: where command probes run.
        clock: wall time.
        chance: for jitter.
        notifier: the supervisor.
        plane: makes the hand on the data plane from what is wanted.

    Attributes:
        sentences: the last decisions, newest last, as (time, sentence).
        late: by how many seconds the last probes started late.
        probed: probes so far.
    """

    def __init__(
        self,
        config: Config,
        *,
        reread: Callable[[], Config],
        driver: Driver,
        host: Host,
        clock: Clock,
        chance: random.Random,
        notifier: Notifier,
        plane: Callable[[Callable[[], Wanted]], Plane],
    ) -> None:
        self.config = config
        self.driver = driver
        self.sentences: deque[tuple[float, str]] = deque(maxlen=50)
        self.late: deque[float] = deque(maxlen=LATE_KEPT)
        self.probed = 0
        self.state = plan.State()
        self.left: dict[str, int | None] = {}
        self._reread = reread
        self._host = host
        self._clock = clock
        self._chance = chance
        self._notifier = notifier
        self._wheel: Wheel | None = None
        self._probing: set[str] = set()
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self.plane = plane(self._wanted)
        self.plane.answering = self._answering
        self.peering: Peering | None = None
        if config.file.peer.address:
            self.peering = Peering(
                config.file.peer,
                clock=clock,
                look=self._misplaceable,
                say=self.say,
                mark=self.plane.mark,
                told=self._told,
                holds=lambda: self.mastership.role is Role.MASTER,
            )
        self.mastership = Mastership(
            lambda: self.config,
            self.plane,
            backends=self._counted,
            peering=self.peering,
            clock=clock,
            say=self.say,
        )

    @property
    def rank(self) -> RankState:
        """What we claim in the election, and why."""
        return self.mastership.rank

    async def run(self, election: Callable[[Plane], Election]) -> None:
        """Run until ``stop``; hand over, and leave the rules where they are.

        Raises:
            StandfastError: the start failed; nothing was changed but what a former
                run had already set.
        """
        await self._take_up()
        server = await serve(self.config.file.socket, self.answer)
        elected = self.mastership.election = election(self.plane)
        workers = [
            asyncio.create_task(work)
            for work in (
                self.plane.work(parse_duration(self.config.file.reconcile)),
                self.mastership.work(),
                self._beat(),
                self.mastership.follow(),
                self._see_off(),
            )
        ]
        try:
            await self.plane.settle()
            if self.peering is not None:
                await self.peering.start()
                self._share_orders()
                workers.append(asyncio.create_task(self.peering.work(self._own)))
            await elected.start()
            self.mastership.begin()
            self.start_probes()
            self._notifier.tell("READY=1")
            stopping = asyncio.create_task(self._stop.wait())
            await asyncio.wait([stopping, *workers], return_when="FIRST_COMPLETED")
            for worker in workers:
                if worker.done():
                    worker.result()
        finally:
            self._notifier.tell("STOPPING=1")
            await elected.stop(handover=True)
            await self.plane.finish()
            server.close()
            if self.peering is not None:
                await self.peering.stop()
            await self.stop_probes()
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def stop(self) -> None:
        """End in good order."""
        self._stop.set()

    def reload(self) -> str:
        """Read the configuration anew; what is wrong with it changes nothing.

        Raises:
            StandfastError: it is wrong.
        """
        config = self._reread()
        old, self.config = self.config, config
        for sentence in renew(self.mastership.election, old, config):
            self.say(sentence)
        self.mastership.review()
        self._event(self._configured(config))
        self.start_probes()
        self._keep()
        return "the configuration was read"

    def say(self, sentence: str, weight: int = logging.INFO) -> None:
        """Log a decision, and keep it for the status."""
        self.sentences.append((self._clock.now(), sentence))
        log.log(weight, "%s", sentence)
        self._notifier.tell(f"STATUS={sentence}")
        self._changed.set()

    async def changed(self) -> None:
        """Return at the next decision."""
        self._changed.clear()
        await self._changed.wait()

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request of the control socket.

        Raises:
            StandfastError: it was refused.
        """
        match request.get("do"):
            case "status":
                await self._count(request.get("backends"))
                return self.status()
            case "drain" | "undrain" | "disable" as order:
                return {"sentence": self._order(order, request)}
            case "kill":
                backend = self._backend(request)
                wanted = self._wanted()
                count = await asyncio.to_thread(self.driver.kill, backend, wanted)
                self.say(f"{backend.name}: {count} connections were cut")
                return {"cut": count}
            case "where" | "counters" as question:
                return await self._asked(question, request)
            case "standby" | "resume" as order:
                return {"sentence": self._stand(order, request)}
            case "reload":
                return {"sentence": self.reload()}
        raise ControlError(f"there is no request {request.get('do')!r}")

    async def _asked(self, question: str, request: dict[str, Any]) -> dict[str, Any]:
        if question == "where":
            return {"places": await self._where(request["client"])}
        return {"nodes": await counters(self.config)}

    def status(self) -> dict[str, Any]:
        """Return all that there is to see; see docs/director.md for the fields."""
        wanted, services = self.plane.wanted(), self.state.services
        return {
            "name": self.config.file.name,
            "role": self.mastership.role.value,
            "rank": self.rank.rank,
            "reason": self.rank.reason,
            "guard": self.plane.guard,
            "digest": digest(wanted),
            "trouble": self.plane.trouble,
            "pending": self.plane.pending,
            "transactions": self.plane.applied,
            "probes": self.probed,
            "now": self._clock.now(),
            "election": self.mastership.row(),
            "peer": self.peering.row() if self.peering else None,
            "services": [service_row(self.state, s, wanted) for s in services],
            "backends": [backend_row(self.state, n, self.left) for n in self._names()],
            "sentences": [list(pair) for pair in self.sentences],
        }

    async def _take_up(self) -> None:
        """Begin with what the kernel and the last run have left."""
        self._event(self._configured(self.config))
        orders, standby = record.load(self.config.file.state)
        leaving = record.load_leaving(self.config.file.state)
        self._event(plan.Remembered(leaving))
        for order in orders:
            self._event(order)
        self.mastership.willing = not standby
        prepare = getattr(self.driver, "prepare", None)
        wanted = self.plane.wanted()
        if prepare is not None and self.config.file.sysctl:
            await asyncio.to_thread(prepare, wanted)
        observed = await asyncio.to_thread(self.driver.observe, wanted)
        self.plane.adopt(observed)
        members = {
            name: frozenset(slots) - {""}
            for name, slots in observed.table.items()
            if any(slots)
        }
        if members:
            self._event(plan.Inherited(members))
        if self.peering is not None:
            self.peering.inherit(observed.pins)

    def _configured(self, config: Config) -> plan.Configured:
        return plan.Configured(
            config.services,
            config.backends,
            config.paces,
            config.policy,
            self._clock.now(),
        )

    def _wanted(self) -> Wanted:
        leaving = self.state.leaving
        former = {name: gone.backend for name, gone in leaving.items()}
        return Wanted(
            with_former(self.state.services, leaving),
            {**self.state.backends, **former},
            plan.tables(self.state),
            guard=False,
            pins=self.peering.pins if self.peering else (),
            front=self.config.file.front,
            back=self.config.file.back,
            former=frozenset(former),
        )

    def _event(self, event: plan.Event) -> plan.Step:
        done = plan.step(self.state, event)
        self.state = done.state
        if done.sentence:
            self.say(done.sentence)
        if done.changes or isinstance(event, plan.Configured | plan.Left):
            self.plane.mark()
        return done

    def _order(self, order: plan.Order, request: dict[str, Any]) -> str:
        name = self._backend(request).name
        force: Any = "force" if request.get("force") else ""
        at = plan.next_order_time(self.state, name, self._clock.now())
        done = self._event(plan.Ordered(name, order, at, force))
        if done.refused:
            raise ControlError(done.sentence, hint="--force takes it out all the same")
        self._share_orders()
        self._keep()
        return done.sentence

    def _told(self, told: plan.Told) -> None:
        """Take an order that the peer was given, if it is news."""
        before = plan.orders(self.state)
        self._event(told)
        if plan.orders(self.state) != before:
            self._share_orders()
            try:
                self._keep()
            except ControlError as error:
                self.say(error.message)

    def _share_orders(self) -> None:
        if self.peering is not None:
            self.peering.order(plan.orders(self.state))

    def _stand(self, order: str, request: dict[str, Any]) -> str:
        sentence = self.mastership.order(order, force=bool(request.get("force")))
        self._keep()
        return sentence

    def _keep(self) -> None:
        standby = not self.mastership.willing
        record.save(self.config.file.state, self.state, standby=standby)

    def _backend(self, request: dict[str, Any]) -> Any:  # noqa: ANN401
        name = str(request.get("backend", ""))
        if name not in self.state.backends:
            known = ", ".join(self.state.backends)
            raise ControlError(f"there is no backend {name}", hint=f"one of: {known}")
        return self.state.backends[name]

    def start_probes(self) -> None:
        """Ask every backend of the configuration from now on, one after the other."""
        if self._wheel is None:
            self._wheel = Wheel(self._probed, self.late.append)
        for name in self._probing - self.config.backends.keys():
            self._wheel.end(name)
        self._probing = set(self.config.backends)
        count = max(1, len(self._probing))
        for at, name in enumerate(self.config.backends):
            self._wheel.start(
                name,
                open_probe(self.config, name, self._host),
                self.config.probe(name).deadline_seconds(),
                at / count * self.config.paces[name].interval,
            )

    async def stop_probes(self) -> None:
        """Ask nobody any more."""
        if self._wheel is not None:
            await self._wheel.close()
            self._wheel = None

    def _probed(self, name: str, outcome: Outcome) -> float:
        """Take a probe's outcome; return seconds from its start to the next one's."""
        self.probed += 1
        self._event(plan.Probed(name, outcome, self._clock.now()))
        health, pace = self.state.entries[name].health, self.state.paces[name]
        interval = next_interval(health, pace)
        return interval * (1 + self._chance.uniform(-JITTER, JITTER))

    def _counted(self) -> tuple[int, int]:
        """Return how many backends answer, and how many should."""
        # Who was drained or disabled on purpose is missed by nobody.
        counted = [
            entry.health.state
            for entry in self.state.entries.values()
            if entry.admin is BackendState.UP
        ]
        down = sum(state is BackendState.DOWN for state in counted)
        return len(counted) - down, len(counted)

    def _answering(self, service: Service) -> bool:
        """Return whether a connection to a service should be answered."""
        return any(
            self.state.entries[name].health.state is BackendState.UP
            for own in self.state.services
            if own.name == service.name
            for name in plan.serving(self.state, own)
        )

    def _own(self) -> tuple[PeerStatus, Wanted]:
        wanted = self.plane.wanted()
        said = self.sentences[-1][1] if self.sentences else ""
        status = PeerStatus(
            self.rank.rank,
            self.mastership.role.value,
            digest(wanted),
            said,
            configuration_digest(wanted),
        )
        return status, wanted

    async def _beat(self) -> None:
        while True:
            self._notifier.tell("WATCHDOG=1")
            await asyncio.sleep(self._notifier.interval or 3600)

    async def _see_off(self) -> None:
        """Forget who has left the configuration once its connections have gone."""
        while True:
            await asyncio.sleep(LEAVE_EVERY)
            for name, former in list(self.state.leaving.items()):
                count = await self._connections(former.backend)
                pins = self.peering.pins if self.peering else ()
                if is_over(
                    former,
                    self._clock.now(),
                    bound=parse_duration(self.config.file.policy.leave),
                    connections=count,
                    pins=pins,
                ):
                    self._event(plan.Left(name))
                    self._keep()

    async def _count(self, names: Any) -> None:  # noqa: ANN401 - from JSON
        for name in names if isinstance(names, list) else self._names():
            former = self.state.leaving.get(name)
            backend = former.backend if former else self.state.backends.get(name)
            if backend is not None:
                self.left[name] = await self._connections(backend)

    async def _connections(self, backend: Backend) -> int | None:
        """Return how many a backend has left; None when that cannot be told."""
        with contextlib.suppress(StandfastError):
            return await asyncio.to_thread(
                self.driver.connections, backend, self._wanted()
            )
        return None

    def _misplaceable(self, wanted: Wanted) -> Sequence[Flow]:
        """Return the flows that a peer's hash may misplace; pf does not hash as we."""
        return self.driver.flows(wanted) if self.config.file.driver != "pf" else ()

    async def _where(self, text: str) -> list[dict[str, Any]]:
        try:
            client = parse_address(text)
        except ValueError as error:
            raise ControlError(str(error), hint="as in 198.51.100.7:51812") from None
        agrees = self.peering.agreement() if self.peering else Agreement.UNKNOWN
        scene = Scene(
            services=self.state.services,
            backends=self.state.backends,
            table=plan.tables(self.state),
            pins=(self.plane.observed or self._wanted()).pins,
            peer_pins=self.peering.pushed if self.peering else (),
            peer_agrees=agrees is Agreement.SAME,
        )
        flows: Sequence[Flow] = ()
        with contextlib.suppress(StandfastError):
            flows = await asyncio.to_thread(self.driver.flows, self._wanted())
        found = []
        for service, virtual in scene.virtuals(client):
            mine = [f for f in flows if f.virtual == virtual and f.state not in OVER]
            found.append(asdict(scene.place(client, service, virtual, mine)))
        return found

    def _names(self) -> list[str]:
        return [*self.state.backends, *self.state.leaving]
