"""The life of a worker process: it ends with its parent, on a signal, or with one sentence about what went wrong.

Nothing heavy is imported before the supervisor has heard of the process.
"""

import sys
import time
import traceback
from contextlib import closing

import zmq
from ts_protocol.channels import Channel, Context
from ts_protocol.config import WorkerConfig
from ts_protocol.control import ControlSender
from ts_protocol.errors import ProtocolError
from ts_protocol.handshake import greet, hello
from ts_protocol.messages import SchedulerToWorker
from ts_protocol.process import die_with_parent, exit_on_signals

from ts_runtime.errors import WorkerError


def run(config: WorkerConfig) -> int:
    """Serve until a signal (exit code 0) or an error (1), which the supervisor and standard error are told."""
    exit_on_signals()
    if not die_with_parent(config.parent_pid):
        return 0
    context: Context = zmq.Context()
    control = ControlSender(context, config.control_address, role="worker", rank=config.rank)
    try:
        return _reporting(config, control, context)
    finally:
        control.close()
        context.term()


def _reporting(config: WorkerConfig, control: ControlSender, context: Context) -> int:
    try:
        serve(config, control, context)
    except Exception as error:
        message = _sentence(error)
        control.failed(message)
        print(f"ts_runtime: {message}", file=sys.stderr)
        if config.debug:
            traceback.print_exc()
        return 1
    return 0


def serve(config: WorkerConfig, control: ControlSender, context: Context) -> None:
    """Start up, shake hands and serve; returns never but by an exception.

    Raises:
        WorkerError, ModelingError, ProtocolError: what went wrong, for a person.
    """
    began = time.monotonic()
    control.progress("importing torch")
    import torch

    from ts_runtime.startup import start
    from ts_runtime.worker import Worker

    import_seconds = time.monotonic() - began
    with torch.inference_mode():
        started = start(config, control)
        channel: Channel[SchedulerToWorker] = Channel.connect(
            context, config.scheduler_address, incoming=SchedulerToWorker, strict=True
        )
        with closing(channel):
            control.progress("greeting the scheduler")
            first = hello(role="worker", fingerprint=config.fingerprint, rank=config.rank, kv=started.capacity)
            greet(channel, first, expect="scheduler")
            control.ready({**started.detail, "import_seconds": f"{import_seconds:.1f}"})
            in_flight, answers = started.device.in_flight, config.rank == 0
            Worker(started.executor, channel, in_flight=in_flight, answers=answers, heartbeat=control.heartbeat).serve()


def _sentence(error: Exception) -> str:
    """An error for a person: our own messages are sentences, a stranger's gets its type in front."""
    if isinstance(error, WorkerError | ProtocolError) or type(error).__module__.startswith("ts_modeling"):
        return str(error)
    return f"{type(error).__name__}: {error}"
