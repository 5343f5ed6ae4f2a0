"""The event loop of the server: HTTP on the bound sockets, the supervisor, and the way down."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Final

import uvicorn
import uvloop
import zmq
from ts_protocol.channels import Context

from ts_entry.api.app import create_app
from ts_entry.api.model import ServedModel, load_served_model
from ts_entry.children import Unit
from ts_entry.config import ServeConfig
from ts_entry.door import Door
from ts_entry.engine.client import EngineClient
from ts_entry.errors import CheckpointError, Stopped
from ts_entry.resolve import Checkpoint
from ts_entry.signals import StopRequests
from ts_entry.status_lines import StatusLines
from ts_entry.supervisor import Supervisor
from ts_entry.text.errors import ModelFileError

LAST_WORDS_SECONDS: Final = 1.0
"""For errors to reach the clients whose requests did not finish."""


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: the launcher has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Server:
    """One server from the start of its loop to its end."""

    def __init__(
        self,
        *,
        config: ServeConfig,
        checkpoint: Checkpoint,
        api_keys: tuple[str, ...],
        listening: list[socket.socket],
        lines: StatusLines,
        start: Callable[[int], Unit],
    ) -> None:
        self._config = config
        self._checkpoint = checkpoint
        self._api_keys = api_keys
        self._listening = listening
        self._lines = lines
        self._start = start
        self._engine = EngineClient()
        self._door = Door(self._engine)
        self._http = _HttpServer(_http_config(self._door, config))

    def serve(self, first: Unit) -> None:
        """``run`` in an event loop."""
        uvloop.run(self.run(first))

    async def run(self, first: Unit) -> None:
        """Serve until SIGINT or SIGTERM, then drain.

        Raises:
            LaunchError: the engine did not start, or died too often; the model's files are unusable.
            Stopped: a signal came before the first request could be served.
        """
        context: Context = zmq.Context()
        stop = StopRequests(asyncio.get_running_loop())
        http = asyncio.ensure_future(self._http.serve(sockets=self._listening))
        supervisor = self._supervisor(context)
        running = asyncio.ensure_future(supervisor.run(first))
        opening = asyncio.ensure_future(self._open())
        waiting = asyncio.ensure_future(_happens(stop.first))
        try:
            await self._until_stopped(waiting, running, opening, http)
            if not opening.done():
                raise Stopped(stop.signum)
            supervisor.drain()
            await self._drain(http, stop)
        finally:
            for task in (opening, running, waiting):
                task.cancel()
            await asyncio.wait([opening, running, waiting])
            self._http.should_exit = self._http.force_exit = True
            await asyncio.wait([http], timeout=LAST_WORDS_SECONDS)
            self._engine.detach("The server has stopped.")
            context.destroy(linger=0)

    def _supervisor(self, context: Context) -> Supervisor:
        return Supervisor(
            start=self._start,
            engine=self._engine,
            context=context,
            fingerprint=self._checkpoint.inspection.fingerprint,
            listener=self._lines,
            hang_timeout=self._config.hang_timeout,
        )

    async def _open(self) -> None:
        """Read the tokenizer while the weights load, and open the door once the engine serves."""
        model = await asyncio.to_thread(self._model)
        await self._lines.first_serving.wait()
        capacity = self._engine.capacity
        if capacity is not None:
            model = replace(model, max_model_len=capacity.max_model_len)
        self._door.open(create_app(self._engine, model, api_keys=self._api_keys))
        self._lines.opened(model.name, capacity)

    def _model(self) -> ServedModel:
        config, checkpoint = self._config, self._checkpoint
        try:
            return load_served_model(
                checkpoint.folder,
                name=checkpoint.name,
                max_model_len=config.max_model_len or 1,
                aliases=checkpoint.aliases,
                miniature=checkpoint.miniature,
                tokenizer_path=Path(config.tokenizer).expanduser() if config.tokenizer else None,
                chat_template=Path(config.chat_template).expanduser() if config.chat_template else None,
            )
        except ModelFileError as error:
            raise CheckpointError(str(error)) from None

    async def _until_stopped(
        self,
        waiting: "asyncio.Future[None]",
        running: "asyncio.Future[None]",
        opening: "asyncio.Future[None]",
        http: "asyncio.Future[None]",
    ) -> None:
        """Until a signal; an error of the supervisor or of opening ends it, too."""
        tasks = {waiting, running, opening, http}
        while True:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task is waiting:
                    return
                task.result()
                assert task is opening, "HTTP and the supervisor end only by an error or when told to"

    async def _drain(self, http: "asyncio.Future[None]", stop: StopRequests) -> None:
        """Let what runs finish, until the time is over or a second signal comes.

        Meanwhile HTTP goes on, so that load balancers see 503 at ``/readiness``; new requests are refused.
        """
        self._engine.drain()
        self._lines.draining(self._engine.in_flight, self._config.drain_timeout)
        hurry = asyncio.ensure_future(_happens(stop.second))
        finish = asyncio.ensure_future(self._finish(http))
        await asyncio.wait([finish, hurry], timeout=self._config.drain_timeout, return_when=asyncio.FIRST_COMPLETED)
        for task in (hurry, finish):
            task.cancel()
        self._http.should_exit = True
        left = self._engine.in_flight
        if not http.done():
            self._engine.detach("The server was stopped before this answer was complete.")
            await asyncio.wait([http], timeout=LAST_WORDS_SECONDS)
        self._lines.stopped(left)

    async def _finish(self, http: "asyncio.Future[None]") -> None:
        """Until nothing is in flight and every answer has been written."""
        await self._engine.wait_idle()
        self._http.should_exit = True
        await asyncio.wait([http])


async def _happens(event: asyncio.Event) -> None:
    await event.wait()


def _http_config(door: Door, config: ServeConfig) -> uvicorn.Config:
    return uvicorn.Config(
        door,
        http="httptools",
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        log_level="info" if config.access_log else "warning",
        access_log=config.access_log,
        server_header=False,
        timeout_keep_alive=60,
    )
