"""Plans as a worker gets them: whole from the binding, or decoded from their frames."""

from dataclasses import dataclass

import msgspec
import numpy as np
from ts_protocol.messages import StepPlan
from ts_protocol.wire import slots_of
from ts_scheduler import Plan


@dataclass
class Sent:
    """A plan as it reaches a worker."""

    step: int
    admits: list[int]
    releases: list[int]
    decodes: list[int]
    rows: list[list[int]]
    tokens: list[int]
    pages: list[list[int]]
    states: list[list[int]]


def whole(plan: Plan) -> Sent:
    """With all its rows."""
    admits = [slot for slot, _ in plan.admits]
    return Sent(
        plan.step, admits, plan.releases, [], plan.rows.tolist(), plan.tokens.tolist(), plan.pages.tolist(),
        plan.states.tolist(),
    )  # fmt: skip


def decoded(frames: tuple[bytes, bytes, bytes, bytes, bytes]) -> Sent:
    """As it travels, decodes as bits."""
    message = msgspec.msgpack.decode(frames[0], type=StepPlan)
    rows, tokens, pages, states = (np.frombuffer(frame, np.int32) for frame in frames[1:])
    return Sent(
        message.step, [admit.slot for admit in message.admits], message.releases, slots_of(message.decodes).tolist(),
        rows.reshape(-1, 4).tolist(), tokens.tolist(), pages.reshape(-1, 4).tolist(),
        states.reshape(-1, 5).tolist(),
    )  # fmt: skip
