"""Keeps one engine running: watches its processes, fails requests when one dies, starts the next generation."""

import asyncio
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from ts_protocol.channels import Context
from ts_protocol.control import ControlReceiver
from ts_protocol.errors import ProtocolError
from ts_protocol.messages import Failed, Heartbeat, Progress, Ready, Role

from ts_entry.children import Child, Unit
from ts_entry.engine.client import EngineClient
from ts_entry.errors import EngineLostError, StartError

RESTARTS: Final = 3
RESTART_WINDOW_SECONDS: Final = 600.0
TICK_SECONDS: Final = 1.0
START_SILENCE_SECONDS: Final = 600.0
"""Without a sign of life while starting: a phase may take long and report nothing."""
SETTLE_SECONDS: Final = 0.3
"""After one death, for its cause to show: the others end because of it."""

Who = tuple[Role, int]


class Listener(Protocol):
    """Who is told what the engine does: the banner."""

    def progress(self, message: Progress) -> None:
        """A phase of a process that starts."""

    def serving(self, generation: int, details: dict[str, str]) -> None:
        """Requests are served; ``details`` are the facts that the processes reported."""

    def died(self, reason: str, output: list[str]) -> None:
        """A generation has ended; the last lines it printed."""


class Watch:
    """One generation as the supervisor sees it: who is ready, who was heard when, who has ended."""

    def __init__(self, unit: Unit, *, clock: Callable[[], float]) -> None:
        self.unit = unit
        self.clock = clock
        self.details: dict[str, str] = {}
        self.failures: dict[Who, str] = {}
        self.ends: dict[Who, float] = {}
        self.ready: set[Who] = set()
        self.all_ready = asyncio.Event()
        now = clock()
        self.heard: dict[Who, float] = {(child.role, child.rank): now for child in unit.children}
        self._tick = now

    def note(self, message: Progress | Ready | Failed | Heartbeat) -> None:
        """A message of a child."""
        who: Who = (message.role, message.rank)
        self.heard[who] = self.clock()
        if isinstance(message, Failed):
            self.failures[who] = message.message
            self.ends.setdefault(who, self.clock())
        elif isinstance(message, Ready):
            self.ready.add(who)
            self.details.update(message.detail)
            if len(self.ready) == len(self.unit.children):
                self.all_ready.set()

    def silent(self, limit: float) -> Child | None:
        """A child that lives but has not been heard for ``limit`` seconds. To be called every ``TICK_SECONDS``.

        When this process itself was stopped (Ctrl-Z, a suspended machine), everybody gets a new start.
        """
        now = self.clock()
        late = now - self._tick > 5 * TICK_SECONDS
        self._tick = now
        if late:
            self.heard = dict.fromkeys(self.heard, now)
        for child in self.unit.children:
            if not child.exited.done() and now - self.heard[child.role, child.rank] > limit:
                return child
        return None

    def ended(self, child: Child) -> None:
        """A child has ended, or is about to."""
        self.ends.setdefault((child.role, child.rank), self.clock())

    def cause(self) -> str:
        """Why the generation ended: the child that failed first of its own accord, as one sentence."""
        failed = [child for child in self.unit.children if (child.role, child.rank) in self.ends]
        culprit = min(failed, key=self._blame)
        failure = self.failures.get((culprit.role, culprit.rank), "")
        if not culprit.exited.done():
            return f"{culprit.title} failed: {failure}"
        code = culprit.exited.result()
        if not failure and code > 0 and culprit.tail:
            failure = culprit.tail[-1]  # it died before anyone listened
        return f"{culprit.title} {ending(code)}" + (f": {failure}" if failure else "")

    def _blame(self, child: Child) -> tuple[bool, float]:
        """Sorts the cause first: a signal from outside, else who was first; the scheduler notices at once if a worker
        goes, and may be heard before it."""
        killed = child.exited.done() and child.exited.result() < 0
        handicap = SETTLE_SECONDS if child.role == "scheduler" else 0.0
        return not killed, self.ends[child.role, child.rank] + handicap


def ending(code: int) -> str:
    """A return code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


class Supervisor:
    """Runs generations one after the other until cancelled."""

    def __init__(
        self,
        *,
        start: Callable[[int], Unit],
        engine: EngineClient,
        context: Context,
        fingerprint: str,
        listener: Listener,
        hang_timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._engine = engine
        self._context = context
        self._fingerprint = fingerprint
        self._listener = listener
        self._hang_timeout = hang_timeout
        self._clock = clock
        self._deaths: list[float] = []
        self._last = ""
        self._draining = False

    def drain(self) -> None:
        """Start no further generation: the server is going down."""
        self._draining = True

    async def run(self, first: Unit) -> None:
        """Serve with ``first``, which has been started, then with its successors; returns only after ``drain``, when
        the generation has ended by itself. The processes of a generation have ended before the next ones are started.

        Raises:
            StartError: the first generation did not come up: the next would not either.
            EngineLostError: more than ``RESTARTS`` deaths within ``RESTART_WINDOW_SECONDS``, or a process that
                cannot be ended.
        """
        unit = first
        while True:
            reason = await self._generation(unit)
            if not self._engine.health.generation:
                raise StartError(f"the engine did not start: {reason}")
            if not self._draining:
                self._count_death(reason)
                await _end(unit)
            if self._draining:
                return
            unit = self._start(unit.generation + 1)

    async def _generation(self, unit: Unit) -> str:
        """One generation from its start to its end; returns why it ended."""
        watch = Watch(unit, clock=self._clock)
        control = ControlReceiver(self._context, unit.control_address, on_message=partial(self._note, watch))
        exits = [asyncio.ensure_future(_exit(watch, child)) for child in unit.children]
        serving = asyncio.ensure_future(self._serve(watch))
        try:
            reason = await self._watch(watch, exits, serving)
            self._last = f"The engine went down: {reason}."
            self._engine.detach(self._last)
            self._listener.died(reason, [f"{child.role}: {line}" for child in unit.children for line in child.tail])
            return reason
        finally:
            for task in (serving, *exits):
                task.cancel()
            control.close()

    async def _serve(self, watch: Watch) -> None:
        """Until the engine serves, then for ever."""
        await watch.all_ready.wait()
        await self._engine.connect(self._context, watch.unit.entry_address, fingerprint=self._fingerprint)
        self._listener.serving(watch.unit.generation, watch.details)
        await asyncio.Event().wait()

    async def _watch(self, watch: Watch, exits: "list[asyncio.Task[None]]", serving: "asyncio.Future[None]") -> str:
        """Wait for the end of the generation: an exit, a failed handshake, or silence; returns it as a sentence."""
        while True:
            tasks: list[asyncio.Future[Any]] = [*exits, serving]
            done, _ = await asyncio.wait(tasks, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if any(exit_ in done for exit_ in exits):
                await asyncio.wait(exits, timeout=SETTLE_SECONDS)
                return watch.cause()
            if serving in done:
                error = serving.exception()
                if isinstance(error, ProtocolError):
                    return str(error)
                raise error or AssertionError("serving ends only by an error")
            limit = self._hang_timeout if watch.all_ready.is_set() else max(self._hang_timeout, START_SILENCE_SECONDS)
            silent = watch.silent(limit)
            if silent is not None:
                return f"{silent.title} gave no sign of life for {limit:g} s"

    def _note(self, watch: Watch, message: Progress | Ready | Failed | Heartbeat) -> None:
        watch.note(message)
        if isinstance(message, Heartbeat):
            self._engine.heartbeat(message)
        elif isinstance(message, Progress):
            # The scheduler only waits for the worker.
            if message.role == "worker" and not watch.all_ready.is_set():
                before = f"{self._last} It" if self._last else "The engine"
                self._engine.starting(f"{before} is starting: {progress_text(message)}.")
            self._listener.progress(message)

    def _count_death(self, reason: str) -> None:
        now = self._clock()
        self._deaths = [when for when in self._deaths if now - when < RESTART_WINDOW_SECONDS] + [now]
        if len(self._deaths) > RESTARTS:
            minutes = RESTART_WINDOW_SECONDS / 60
            raise EngineLostError(
                f"the engine went down {len(self._deaths)} times within {minutes:g} minutes, at last because {reason}"
            )


async def _end(unit: Unit) -> None:
    """End the processes on a thread: HTTP goes on meanwhile.

    Raises ``EngineLostError`` if one cannot be ended: it may hold the memory that the next would need.
    """
    alive = await asyncio.to_thread(unit.stop)
    if alive:
        names = " and ".join(f"{child.title} (process {child.pid})" for child in alive)
        raise EngineLostError(f"the engine cannot be restarted: {names} did not end after SIGKILL")


async def _exit(watch: Watch, child: Child) -> None:
    await asyncio.shield(asyncio.wrap_future(child.exited))  # cancelling the watch does not cancel what it watches
    watch.ended(child)


def progress_text(message: Progress) -> str:
    """``worker 0: loading weights 40%``."""
    share = f" {message.done / message.total:.0%}" if message.total else ""
    who = "scheduler" if message.role == "scheduler" else f"worker {message.rank}"
    return f"{who}: {message.phase}{share}"
