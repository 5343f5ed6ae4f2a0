"""Throws damaged messages at the decoder, and whatever decodes at the core through its binding.

Usage: python tests/fuzz/binding.py [INPUTS] [SEED]

Every input is a message that was encoded, damaged, and decoded again, or a call with arguments of every kind. It may be
refused (``MsgspecError``, ``TypeError``, ``ValueError``, ``SettleError``, ``Rejected``) and must not crash or change
what others get. Run it against a build of the binding with sanitizers: ``ci/fuzz``.
"""

import contextlib
import random
import sys
from typing import Any

import msgspec
import numpy as np
from ts_protocol.messages import Abort as AbortMessage
from ts_protocol.messages import EntryToScheduler, KvCapacity, SamplingParams, StepPlan, StepResult, Submit
from ts_protocol.wire import slots_of
from ts_scheduler import SettleError
from ts_scheduler._core import Config, Scheduler
from ts_scheduler.requests import Engine

KV = KvCapacity(page_size=2, num_pages=24, max_num_seqs=4, max_model_len=40, vocab_size=50)
ODD = (0, -1, 1, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, 2**63, -(2**63), 2**64, 1.5, float("nan"), None, "x", b"", [])
ENTRY = msgspec.msgpack.Decoder(EntryToScheduler)
RESULT = msgspec.msgpack.Decoder(StepResult)
REFUSED = (msgspec.MsgspecError, UnicodeDecodeError, TypeError, ValueError, OverflowError)


class Fuzz:
    """One engine and what is in flight in it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.drafts = rng.choice([0, 2])
        self.engine = Engine(
            KV, chunk_tokens=16, max_queued=4, prefix_caching=True, min_tps=rng.choice([0.0, 50.0]), tool_wait_steps=3,
            new_prompt_wait_steps=5, draft_tokens=self.drafts,
        )  # fmt: skip
        self.core: Scheduler = self.engine._core
        self.bare = Scheduler(
            Config(
                page_size=2,
                num_pages=24,
                max_num_seqs=4,
                max_model_len=40,
                vocab_size=50,
                chunk_tokens=16,
                max_queued=4,
            )
        )
        self.flight: list[tuple[int, list[int]]] = []
        """Steps, and the most tokens of each sampling row."""
        self.taken = 0

    def damaged(self, message: msgspec.Struct) -> bytes:
        """The message's bytes, most often with a few changed, cut or repeated."""
        data = bytearray(msgspec.msgpack.encode(message))
        for _ in range(self.rng.choice([0, 1, 1, 2, 5])):
            place = self.rng.randrange(len(data)) if data else 0
            match self.rng.randrange(4):
                case 0 if data:
                    data[place] = self.rng.randrange(256)
                case 1:
                    del data[place:]
                case 2:
                    data[place:place] = data[: self.rng.randrange(9)]
                case _:
                    data.insert(place, self.rng.randrange(256))
        return bytes(data)

    def array(self) -> object:
        kind = self.rng.randrange(12)
        if kind == 0:
            return self.rng.choice(ODD)
        if kind == 1:
            return np.zeros((2, 2), np.int32)
        if kind == 2:
            return np.frombuffer(b"\x00" + bytes(16), np.uint8)[1:].view(np.int32)  # not aligned
        if kind == 3:
            return np.arange(20, dtype=np.int32)[::2]
        length = self.rng.randrange(20)
        values = [self.rng.randrange(-1, 52) if kind == 4 else self.rng.randrange(3) for _ in range(length)]
        return np.array(values, np.int32)

    def message(self) -> None:
        """From the entry."""
        identity = self.rng.randrange(9)
        submit = Submit(identity, self.rng.randrange(9), (3,), SamplingParams(), self.rng.randrange(3), "u", True, "s")
        message = ENTRY.decode(self.damaged(submit if self.rng.random() < 0.8 else AbortMessage(identity)))
        if isinstance(message, Submit):
            self.taken += self.engine.submit(message, self.array()) is None  # type: ignore[arg-type]
        elif isinstance(message, AbortMessage):
            self.engine.abort(message)

    def plan(self) -> None:
        frames = self.engine.plan()
        if frames is not None:
            rows = np.frombuffer(frames[1], np.int32).reshape(-1, 4)
            plan = msgspec.msgpack.decode(frames[0], type=StepPlan)
            most = [1 + self.drafts] * len(slots_of(plan.decodes))
            most += np.where(rows[:, 3] & 2, rows[:, 2], 1)[rows[:, 3] & 1 != 0].tolist()
            self.flight.append((plan.step, most))

    def result(self) -> None:
        """From a worker."""
        step, most = self.flight[0] if self.flight else (1, [1])
        accepted = tuple(self.rng.randint(1, count) for count in most) if self.rng.random() < 0.7 else ()
        message = RESULT.decode(self.damaged(StepResult(step, self.rng.choice([0, 10**6]), accepted)))
        samples = sum(accepted) if accepted else len(most)
        tokens = self.array() if self.rng.random() < 0.3 else np.full(samples, self.rng.randrange(-1, 50), np.int32)
        self.engine.settle(message, tokens)  # type: ignore[arg-type]
        self.flight.pop(0)

    def call(self) -> None:
        """The binding itself, with arguments of any kind."""

        def odd(usual: object) -> Any:
            return self.rng.choice(ODD) if self.rng.random() < 0.2 else usual

        array: Any = self.array()
        match self.rng.randrange(6):
            case 0:
                self.bare.submit(
                    odd(self.rng.randrange(9)),
                    array,
                    odd(3),
                    odd(()),
                    priority=odd(1),
                    user=odd(2),
                    cache_salt=odd(b"t"),
                )
            case 1:
                self.bare.settle(odd(1), array, odd(5), odd((1, 2)))
            case 2:
                self.bare.abort(odd(self.rng.randrange(9)))
            case 3:
                Scheduler(Config(**{name: odd(7) for name in CONFIG}))
            case 4:
                self.bare.plan()
            case _:
                self.bare.snapshot()

    def step(self) -> None:
        action = self.rng.choices((self.message, self.plan, self.result, self.call), (5, 4, 5, 2))[0]
        with contextlib.suppress(*REFUSED, SettleError):
            action()

    def finish(self) -> None:
        """What was taken still ends, and every page comes back."""
        for _ in range(10_000):
            if self.core.idle():
                break
            self.plan()
            step, most = self.flight.pop(0)
            self.core.settle(step, np.ones(len(most), np.int32))
        end = self.core.snapshot()
        assert self.core.idle()
        assert len(end.free) + len(end.idle) == KV.num_pages


CONFIG = (
    "page_size", "num_pages", "max_num_seqs", "max_model_len", "vocab_size", "chunk_tokens", "max_queued", "min_tps",
    "draft_tokens",
)  # fmt: skip


def main(inputs: int, seed: int) -> None:
    rng = random.Random(seed)
    done = taken = 0
    while done < inputs:
        fuzz = Fuzz(rng)
        for _ in range(1000):
            fuzz.step()
        fuzz.finish()
        done += 1000
        taken += fuzz.taken
    print(f"{done} inputs, {taken} requests taken and ended")


if __name__ == "__main__":
    main(*([int(argument) for argument in sys.argv[1:]] + [20_000, 1][len(sys.argv) - 1 :]))
