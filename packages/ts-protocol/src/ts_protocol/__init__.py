"""Messages and channels between the processes of TokenSpeed."""

from ts_protocol.channels import AsyncChannel, Channel
from ts_protocol.config import SchedulerConfig, WorkerConfig
from ts_protocol.control import ControlReceiver, ControlSender
from ts_protocol.endpoints import CurveKeys, RuntimeDirectory
from ts_protocol.errors import ChannelError, HandshakeError, MalformedError, ProtocolError
from ts_protocol.handshake import answer, check_answer, disagreement, greet, hello
from ts_protocol.process import die_with_parent, exit_on_signals
from ts_protocol.wire import IntArray, rows

__all__ = [
    "AsyncChannel",
    "Channel",
    "ChannelError",
    "ControlReceiver",
    "ControlSender",
    "CurveKeys",
    "HandshakeError",
    "IntArray",
    "MalformedError",
    "ProtocolError",
    "RuntimeDirectory",
    "SchedulerConfig",
    "WorkerConfig",
    "answer",
    "check_answer",
    "die_with_parent",
    "disagreement",
    "exit_on_signals",
    "greet",
    "hello",
    "rows",
]
