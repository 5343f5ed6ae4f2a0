"""From a configuration to a running server: listen, resolve, start the engine, and only then load the HTTP stack."""

import contextlib
import errno
import importlib.util
import ipaddress
import os
import socket
from pathlib import Path
from typing import Any, Final

from ts_entry import signals
from ts_entry.banner import Banner
from ts_entry.children import Echo, EnginePlan, Unit
from ts_entry.config import ServeConfig
from ts_entry.errors import AddressError
from ts_entry.machine import Machine, choose_machine, size_text
from ts_entry.resolve import Checkpoint, Resolver
from ts_entry.rundir import RunDirectory
from ts_entry.settings import Settings, read_settings
from ts_entry.timeline import Timeline

BACKLOG: Final = 2048
NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""An address of another machine, or of a protocol that this one does not have."""


def launch(config: ServeConfig) -> int:
    """Serve until a signal; returns 0.

    Raises:
        LaunchError: nothing was served, or the engine is lost; one sentence for a person.
        Stopped: a signal came before the first request could be served.
    """
    timeline = Timeline()
    with signals.raising(), contextlib.ExitStack() as cleanup:
        settings = read_settings()
        banner = Banner()
        listening = listen(config.host, config.port)
        for each in listening:
            cleanup.callback(each.close)
        machine = choose_machine(config.device, config.tensor_parallel_size)
        checkpoint = Resolver(config=config, settings=settings, machine=machine, say=banner.plain).resolve()
        announce(banner, config, settings, machine, checkpoint)
        timeline.mark("starting processes")
        with signals.deferred():  # until both the directory and its removal exist
            directory = cleanup.enter_context(contextlib.closing(RunDirectory()))
        engine = Engine(
            engine_plan(config, checkpoint, machine, settings),
            directory,
            echo=banner.plain if config.log_level == "debug" else None,
        )
        cleanup.callback(engine.stop)
        cleanup.callback(signals.ignore)
        first = engine.start(0)
        timeline.mark("loading the HTTP stack")
        # Imported while the engine's processes import theirs: this takes a second.
        from ts_entry.server import Server
        from ts_entry.status_lines import StatusLines

        key = config.api_key or settings.api_key
        lines = StatusLines(banner, timeline, config=config, url=url_of(listening[0]), needs_key=key is not None)
        server = Server(
            config=config,
            checkpoint=checkpoint,
            api_keys=(key,) if key else (),
            listening=listening,
            lines=lines,
            start=engine.start,
        )
        timeline.mark("event loop")
        server.serve(first)
    return 0


class Engine:
    """The generation of the engine that runs now."""

    def __init__(self, plan: EnginePlan, directory: RunDirectory, *, echo: Echo | None) -> None:
        self._plan = plan
        self._directory = directory
        self._echo = echo
        self._unit: Unit | None = None

    def start(self, generation: int) -> Unit:
        """Start one; the processes of the one before have ended."""
        self._unit = Unit(self._plan, self._directory, generation, echo=self._echo)
        return self._unit

    def stop(self) -> None:
        """End it, if one runs."""
        if self._unit is not None:
            self._unit.stop()


def announce(banner: Banner, config: ServeConfig, settings: Settings, machine: Machine, checkpoint: Checkpoint) -> None:
    """Which checkpoint is served, from where, and why not from the places before."""
    size = size_text(checkpoint.inspection.weight_bytes) if config.load_format != "dummy" else "random weights"
    banner.plain("TokenSpeed")
    banner.line("model", f"{checkpoint.name}, {checkpoint.source}, {size}")
    if checkpoint.miniature and checkpoint.notes:
        banner.more(f"not the full {config.model}: {'; '.join(checkpoint.notes)}")
    banner.line("from", str(checkpoint.folder))
    if checkpoint.claim is not None:
        banner.more(checkpoint.claim)
    if machine.idle_gpu is not None:
        banner.line("device", f"the CPU; the {machine.idle_gpu} is left alone: this release's kernels are for the CPU")
    if not is_loopback(config.host):
        key = (
            "with a key" if config.api_key or settings.api_key else "without a key: set --api-key unless that is meant"
        )
        banner.line("network", f"{config.host} can be reached from other machines, {key}")


def engine_plan(config: ServeConfig, checkpoint: Checkpoint, machine: Machine, settings: Settings) -> EnginePlan:
    """What the processes are started with; numbers that were left at 0 are chosen for the device."""
    on_cpu = machine.device == "cpu"
    return EnginePlan(
        checkpoint=str(checkpoint.folder),
        fingerprint=checkpoint.inspection.fingerprint,
        devices=tuple(machine.worker_device(rank) for rank in range(config.tensor_parallel_size)),
        mesh=mesh_of(config),
        dtype=config.dtype,
        kv_cache_dtype=config.kv_cache_dtype,
        load_format=config.load_format,
        page_size=config.block_size or (16 if on_cpu else 64),
        kv_cache_tokens=config.kv_cache_tokens,
        max_num_seqs=config.max_num_seqs or (16 if on_cpu else 256),
        max_model_len=config.max_model_len,
        chunk_tokens=config.chunked_prefill_size or (512 if on_cpu else 8192),
        max_queued=config.max_queued,
        min_tps=config.min_tps,
        prefix_caching=config.enable_prefix_caching,
        threads=config.threads,
        debug=config.log_level == "debug",
        environment=child_environment(settings),
    )


def mesh_of(config: ServeConfig) -> str:
    """How the workers cut the model, as ``ts-modeling explain --mesh`` takes it; empty for one."""
    ranks, parts = config.tensor_parallel_size, config.ep_size
    return f"attn_tp={ranks},moe_ep={parts},moe_tp={ranks // parts}" if ranks > 1 else ""


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of the engine's processes.

    Torch's OpenMP threads do not poll for work unless the user asks for it: they would hold processors that the native
    kernels' threads need, for milliseconds after every operation of torch's that they shared.

    Where Python may not write bytecode beside modules and torch was installed without (usual in containers), it goes
    to a cache of our own: importing torch takes 8 s without and 4 s with it.
    """
    environment = {"OMP_WAIT_POLICY": "passive", **settings.environment, "PYTHONUNBUFFERED": "1"}
    spec = importlib.util.find_spec("torch")
    if settings.writes_bytecode or spec is None or spec.origin is None:
        return environment
    if not (Path(spec.origin).parent / "__pycache__").is_dir():
        del environment["PYTHONDONTWRITEBYTECODE"]
        environment["PYTHONPYCACHEPREFIX"] = str(settings.user_cache / "tokenspeed" / "bytecode")
    return environment


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of ``host``, before anything is loaded; all have the same port.

    Addresses that this machine does not have (``::1`` where IPv6 is off) are left out as long as one remains.

    Raises:
        AddressError: an address is taken or not permitted, or the name is unknown or has no address here.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise AddressError(f"--host {host}: {error.strerror}") from None
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    missing: OSError | None = None
    with contextlib.ExitStack() as undo:
        listening: list[socket.socket] = []
        for family, (name, _, *rest) in addresses:
            chosen = listening[0].getsockname()[1] if listening else port  # 0: the first one's port is everybody's
            try:
                opened = _listen(family, (name, chosen, *rest), alone=len(addresses) == 1)
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise AddressError(_why_not_listen(str(name), int(chosen), error)) from None
                missing = error
            else:
                listening.append(undo.enter_context(contextlib.closing(opened)))
        if missing is not None and not listening:
            raise AddressError(_why_not_listen(host, port, missing))
        undo.pop_all()
    return listening


def _listen(family: int, address: tuple[Any, ...], *, alone: bool) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not alone:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        opened.bind(address)
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened


def _why_not_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken by another process; stop it or choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges that this user lacks; choose one above 1023 with --port"
    return f"cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}"


def url_of(listening: socket.socket) -> str:
    """Where a client on this machine sends requests."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
