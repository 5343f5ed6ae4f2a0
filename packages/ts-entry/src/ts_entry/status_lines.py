"""What the server says on the banner while it starts, serves, restarts and stops."""

import asyncio

from ts_protocol.messages import KvCapacity, Progress

from ts_entry.banner import Banner, try_it
from ts_entry.config import ServeConfig
from ts_entry.timeline import Timeline


class StatusLines:
    """The supervisor's and the server's voice."""

    def __init__(self, banner: Banner, timeline: Timeline, *, config: ServeConfig, url: str, needs_key: bool) -> None:
        self.first_serving = asyncio.Event()
        self._banner = banner
        self._timeline = timeline
        self._config = config
        self._url = url
        self._needs_key = needs_key
        self._details: dict[str, str] = {}

    def progress(self, message: Progress) -> None:
        """A phase of a process that starts: of the first worker, which the others keep up with."""
        if message.role == "worker" and message.rank == 0 and not self.first_serving.is_set():
            self._timeline.mark(message.phase)
            self._banner.progress("engine", message.phase, message.done, message.total)

    def serving(self, generation: int, details: dict[str, str]) -> None:
        """Requests are served."""
        self._details = details
        if self.first_serving.is_set():
            self._banner.plain("ts-entry: the engine serves again")
        self.first_serving.set()

    def opened(self, model: str, capacity: KvCapacity | None) -> None:
        """HTTP requests reach the engine for the first time."""
        details = self._details
        banner = self._banner
        banner.line("engine", _engine_line(details, self._config.tensor_parallel_size))
        if capacity is not None:
            tokens = capacity.num_pages * capacity.page_size
            banner.line(
                "memory",
                f"{tokens:,} KV tokens in pages of {capacity.page_size}, {capacity.max_num_seqs} requests at once, "
                f"{capacity.max_model_len:,} tokens a request at most",
            )
        self._timeline.mark("ready")
        banner.line("ready", f"after {self._timeline.total():.1f} s: {self._url}  (Ctrl-C stops)")
        if self._config.log_level == "debug":
            banner.more(self._timeline.text())
        banner.plain()
        banner.plain(try_it(self._url, model, needs_key=self._needs_key))
        banner.plain()

    def died(self, reason: str, output: list[str]) -> None:
        """A generation has ended."""
        for line in output:
            self._banner.plain(f"    {line}")
        if self.first_serving.is_set():
            self._banner.plain(f"ts-entry: the engine went down: {reason}")

    def draining(self, in_flight: int, timeout: float) -> None:
        """The first signal came."""
        if in_flight:
            requests = "1 request" if in_flight == 1 else f"{in_flight} requests"
            self._banner.plain(f"ts-entry: finishing {requests}, {timeout:g} s at most; Ctrl-C again stops at once")

    def stopped(self, unfinished: int) -> None:
        """Nothing is served any more."""
        self._banner.plain(f"ts-entry: stopped{f' with {unfinished} unfinished requests' if unfinished else ''}")


def _engine_line(details: dict[str, str], workers: int) -> str:
    device = details.get("device", "?")
    threads = f", {details['threads']} threads" if "threads" in details else ""
    if workers > 1:
        device, threads = f"{workers} workers on {device.partition(':')[0]}", f"{threads} each" if threads else ""
    return f"{device}{threads}, activations {details.get('dtype', '?')}, KV cache {details.get('kv_dtype', '?')}"
