"""One scheduler and its toy worker, driven by random events or by hand."""

import random
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
from ts_protocol.messages import SamplingParams
from ts_scheduler import Config, Scheduler, Transfer, TransferError

from .model import VOCAB, entries_of, generate_alone
from .plans import Sent, decoded, whole
from .worker import ToyWorker


def common(a: list[int], b: list[int]) -> int:
    """Length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@dataclass
class Asked:
    prompt: list[int]
    max_tokens: int
    stops: tuple[int, ...]
    salt: bytes = b""
    send: bool = False
    got: list[int] = field(default_factory=list)
    finish: str | None = None
    cached: int | None = None


class Trace:
    """One scheduler, its toy worker, and what every request got."""

    def __init__(self, config: Config, seed: int) -> None:
        self.config = config
        self.rng = random.Random(seed)
        self.scheduler = Scheduler(config)
        self.worker = ToyWorker(config, self.rng)
        self.in_flight: list[Sent] = []
        self.transfers: list[Transfer] = []
        self.asked: dict[int, Asked] = {}
        self.rejections: list[str] = []

    def submit(self) -> None:
        finished = [asked for asked in self.asked.values() if asked.finish in ("stop", "length")]
        prompt = [self.rng.randrange(2) for _ in range(self.rng.randint(1, 9))]
        if finished and self.rng.random() < 0.6:  # the next turn of a conversation
            before = self.rng.choice(finished)
            prompt = before.prompt + before.got + prompt[: self.rng.randint(0, 3)]
        elif self.asked and self.rng.random() < 0.5:  # the same prompt again
            prompt = list(self.rng.choice(list(self.asked.values())).prompt)
        stops = tuple(self.rng.sample(range(VOCAB), self.rng.randint(0, 2)))
        salt = self.rng.choice([b"", b"", b"tenant"])
        asked = Asked(prompt, self.rng.randint(1, 12), stops, salt, send=self.rng.random() < 0.1)
        request_id = len(self.asked) + len(self.rejections)
        rejection = self.scheduler.submit(
            request_id,
            np.array(prompt, dtype=np.int32),
            asked.max_tokens,
            stops,
            priority=self.rng.randint(-1, 1),
            user=self.rng.randint(0, 2),
            session=self.rng.random() < 0.3,
            send=asked.send,
            receive=len(prompt) > 1 and self.rng.random() < 0.1,
            cache_salt=asked.salt,
            sampling=msgspec.msgpack.encode(SamplingParams()),
        )
        if rejection is None:
            self.asked[request_id] = asked
        else:
            self.rejections.append(rejection.code)

    def abort(self) -> None:
        if self.asked:
            request_id = self.rng.choice(list(self.asked))
            lives = self.asked[request_id].finish is None
            assert self.scheduler.abort(request_id) == lives
            if lives:
                self.asked[request_id].finish = "abort"

    def plan(self) -> None:
        if self.rng.random() < 0.3:
            plan = self.scheduler.plan()
            sent = None if plan is None else whole(plan)
        else:
            frames = self.scheduler.plan_frames()
            sent = None if frames is None else decoded(frames)
        if sent is not None:
            self.in_flight.append(sent)
            assert len(self.in_flight) <= self.config.depth

        self.note_transfers()

    def note_transfers(self) -> None:
        for transfer in self.scheduler.transfers():
            self.worker.begin(transfer)
            self.transfers.append(transfer)

    def transfer(self) -> None:
        """One of the transfers under way ends, well or not."""
        if not self.transfers:
            return
        transfer = self.transfers.pop(self.rng.randrange(len(self.transfers)))
        arrived = self.rng.random() < 0.8
        if arrived:
            asked = self.asked.get(transfer.request)
            tokens = (asked.prompt + asked.got)[: transfer.tokens] if asked is not None else []
            self.worker.complete(transfer, entries_of(tokens))
        self.scheduler.end_transfer(transfer.id, arrived)
        with pytest.raises(TransferError, match="is not under way"):
            self.scheduler.end_transfer(transfer.id, arrived)

    def settle(self) -> None:
        if not self.in_flight:
            return
        plan = self.in_flight.pop(0)
        rows = self.worker.run(plan)
        tokens = np.array([token for row in rows for token in row], dtype=np.int32)
        accepted = [len(row) for row in rows] if self.config.draft_tokens else []
        duration = self.rng.choice([0, 1, 10**6, 10**9])
        for request_id, token, cached, finish in self.scheduler.settle(plan.step, tokens, duration, accepted):
            asked = self.asked[request_id]
            assert asked.finish is None, "nothing comes after the end"
            assert asked.cached in (None, cached)
            asked.got.append(token)
            asked.finish, asked.cached = finish, cached
        self.note_transfers()

    def finish(self) -> None:
        """Run until nothing is left; a scheduler that is stuck fails here."""
        for _ in range(10_000):
            if self.scheduler.idle() and not self.transfers:
                return
            self.plan()
            if self.rng.random() < 0.5:
                self.plan()
            assert self.in_flight or self.transfers, "there is work and nothing in flight, yet no plan"
            if not self.in_flight or self.rng.random() < 0.3:
                self.transfer()
            self.settle()
        raise AssertionError("the trace does not end")

    def reusable(self, asked: Asked) -> int:
        """Tokens of the longest prefix that any request of the same tenant could have left behind."""
        others = [other for other in self.asked.values() if other is not asked and other.salt == asked.salt]
        return max((common(asked.prompt, other.prompt + other.got) for other in others), default=0)

    def check(self) -> None:
        for asked in self.asked.values():
            expected, reason = generate_alone(asked.prompt, asked.max_tokens, asked.stops, self.config.groups)
            if asked.finish in ("abort", "sent"):
                assert asked.got == expected[: len(asked.got)]
            else:
                assert (asked.got, asked.finish) == (expected, reason)
            if asked.cached is not None:
                assert asked.cached % self.config.page_size == 0
                assert asked.cached < len(asked.prompt)
                assert asked.cached <= self.reusable(asked)
        snapshot = self.scheduler.snapshot()
        assert sorted(snapshot.free + snapshot.cached) == list(range(self.config.num_pages))
        assert sorted(snapshot.idle) == sorted(snapshot.cached)
        assert self.scheduler.stats().pages_used == 0
        held = [page for page, holders in enumerate(snapshot.host_references) if holders]
        assert sorted(snapshot.host_order) == held
        for group, pages in zip(self.config.groups, snapshot.groups, strict=True):
            assert sorted(pages.free + pages.attached) == list(range(group.num_pages))
            assert sorted(pages.idle) == sorted(pages.attached)
