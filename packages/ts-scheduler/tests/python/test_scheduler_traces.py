"""Random traces against a toy language model whose next token depends on every KV entry, read through block tables.

With cache groups each entry also depends on the window of entries before it, read through the group's table, and on a
state that is carried along, loaded from checkpoints and saved to them.

The oracle generates each request alone, with no pages at all. A page that is wrong, stale, missing, shared while it is
written, or reused too early changes some token.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ts_protocol.messages import ROW_SAMPLE, ROW_TOKEN_ON_DEVICE, SamplingParams, StepPlan
from ts_protocol.wire import slots_of
from ts_scheduler import CacheGroup, Config, Plan, Scheduler, Transfer, TransferError, least_pages

VOCAB = 5
MODULUS = (1 << 61) - 1


def entry_of(token: int, position: int, before: int, others: Sequence[int] = ()) -> int:
    """The KV entry of a token: it depends on the whole prefix, and on what the other groups hold."""
    return (before * 1_000_003 + token * 7919 + position * 104_729 + digest(others) + 1) % MODULUS


def entries_of(tokens: list[int]) -> list[int]:
    entries: list[int] = []
    for token in tokens:
        entries.append(entry_of(token, len(entries), entries[-1] if entries else 0))
    return entries


def digest(entries: Sequence[int]) -> int:
    """Depends on every entry, and on their order."""
    state = 0
    for entry in entries:
        state = (state * 31 + entry) % MODULUS
    return state


def sample(entries: Sequence[int]) -> int:
    """The next token."""
    return (digest(entries) >> 7) % VOCAB


def window_entry(entry: int, group: int) -> int:
    """What a window group keeps of a position: through its entry it depends on the whole prefix."""
    return (entry * 69_069 + group) % MODULUS


def advance(state: int, token: int, group: int) -> int:
    """A running state after one more token."""
    return (state * 40_503 + token + group + 1) % MODULUS


def common(a: list[int], b: list[int]) -> int:
    """Length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def generate_alone(
    prompt: list[int], max_tokens: int, stops: tuple[int, ...], groups: Sequence[CacheGroup] = ()
) -> tuple[list[int], str]:
    """The oracle: no pages, no batching, no cache."""
    entries: list[int] = []
    states = [0] * len(groups)

    def add(token: int) -> None:
        others: list[int] = []
        for index, group in enumerate(groups):
            if group.kind == "window":
                window = entries[max(len(entries) + 1 - group.window, 0) :]
                others.append(digest([window_entry(entry, index) for entry in window]))
            else:
                states[index] = advance(states[index], token, index)
                others.append(states[index])
        entries.append(entry_of(token, len(entries), entries[-1] if entries else 0, others))

    for token in prompt:
        add(token)
    output: list[int] = []
    while True:
        output.append(sample(entries))
        if output[-1] in stops:
            return output, "stop"
        if len(output) == max_tokens:
            return output, "length"
        add(output[-1])


class ToyGroup:
    """A worker's pages of one group: an integer for each token of a window group, one for each state."""

    def __init__(self, index: int, group: CacheGroup, page_size: int, rng: random.Random) -> None:
        self.index, self.group, self.page_size = index, group, page_size
        width = page_size if group.kind == "window" else 1
        self.cache = [[rng.randrange(MODULUS) for _ in range(width)] for _ in range(group.num_pages)]
        self.tables: dict[int, dict[int, int]] = {}
        self.saves: dict[tuple[int, int], int] = {}
        self.passed: dict[int, int] = {}
        """The states at the positions of the row under way."""

    def start(self, admits: list[int], pages: list[list[int]], states: list[list[int]]) -> None:
        """Take a plan's entries of this group."""
        for slot in admits:
            self.tables[slot] = {}
        for slot, _, block, page in pages:
            assert self.group.kind == "window" or (block, self.tables[slot]) == (0, {})
            self.tables[slot][block] = page
        if self.group.kind == "state":
            for slot in admits:
                self.cache[self.tables[slot][0]][0] = 0
        for slot, _, page, _, save in states:
            if not save:
                self.cache[self.tables[slot][0]][0] = self.cache[page][0]
        self.saves = {(slot, position): page for slot, _, page, position, save in states if save}

    def before(self, slot: int, position: int, token: int) -> int:
        """What the token at a position sees of this group."""
        table = self.tables[slot]
        if self.group.kind == "window":
            seen = range(max(position + 1 - self.group.window, 0), position)
            return digest([self.cache[table[at // self.page_size]][at % self.page_size] for at in seen])
        self.cache[table[0]][0] = advance(self.cache[table[0]][0], token, self.index)
        return self.cache[table[0]][0]

    def after(self, slot: int, position: int, entry: int) -> None:
        """What this group keeps of it."""
        table = self.tables[slot]
        if self.group.kind == "window":
            page = self.cache[table[position // self.page_size]]
            page[position % self.page_size] = window_entry(entry, self.index)
            return
        self.passed[position + 1] = self.cache[table[0]][0]
        if (slot, position + 1) in self.saves:
            self.cache[self.saves.pop((slot, position + 1))][0] = self.cache[table[0]][0]

    def rewind(self, slot: int, length: int) -> None:
        """After a row: what its rejected drafts did to the state is undone."""
        if self.group.kind == "state":
            self.cache[self.tables[slot][0]][0] = self.passed[length]
            self.passed.clear()


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


class ToyWorker:
    """Executes plans as ``ts_protocol.messages.StepPlan`` says, with one integer for a token's keys and values.

    Its drafts are right as often as not. All of a row's drafts are written before any is checked.
    """

    def __init__(self, config: Config, rng: random.Random) -> None:
        self.page_size = config.page_size
        self.chunk_tokens = config.chunk_tokens
        self.drafts = config.draft_tokens
        self.cache = [[rng.randrange(MODULUS) for _ in range(config.page_size)] for _ in range(config.num_pages)]
        self.host: list[list[int]] = [[rng.randrange(MODULUS)] * config.page_size for _ in range(config.host_pages)]
        self.tables: dict[int, list[int]] = {}
        self.last: dict[int, int] = {}
        self.length: dict[int, int] = {}
        self.rng = rng
        self.groups = [ToyGroup(index, group, config.page_size, rng) for index, group in enumerate(config.groups)]

    def run(self, plan: Sent) -> list[list[int]]:
        """The tokens of each sampling row."""
        for slot in plan.releases:
            del self.tables[slot]
        for slot in plan.admits:
            self.tables[slot] = []
            self.length.pop(slot, None)
        for slot, group, block, page in plan.pages:
            if group == 0:
                assert block == len(self.tables[slot])
                assert page not in self.tables[slot]
                self.tables[slot].append(page)
        for number, held in enumerate(self.groups, start=1):
            own = [[entry for entry in entries if entry[1] == number] for entries in (plan.pages, plan.states)]
            held.start(plan.admits, *own)
        flags = ROW_SAMPLE | ROW_TOKEN_ON_DEVICE
        rows = [[slot, self.length[slot], 1 + self.drafts, flags] for slot in plan.decodes] + plan.rows
        assert len({row[0] for row in rows}) == len(rows), "a slot has at most one row"
        assert sum(row[2] for row in rows) <= self.chunk_tokens
        kinds = [bool(row[3] & ROW_TOKEN_ON_DEVICE) for row in rows]
        assert kinds == sorted(kinds, reverse=True), "decodes come first"
        fed = iter(plan.tokens)
        sampled = [self._row(slot, start, count, flags, fed) for slot, start, count, flags in rows]
        assert next(fed, None) is None
        assert not any(group.saves for group in self.groups), "each checkpoint is passed by its row"
        return [tokens for tokens in sampled if tokens]

    def _row(self, slot: int, start: int, count: int, flags: int, fed: Iterator[int]) -> list[int]:
        if flags & ROW_TOKEN_ON_DEVICE:
            assert self.length[slot] <= start, "a row starts where the accepted tokens end, or before"
            start = self.length[slot]
            sampled = self._decode(slot, start, count)
        else:
            assert self.length.get(slot, start) == start
            for position in range(start, start + count):
                self._write(slot, position, next(fed))
            sampled = [self._sample(slot, start + count)] if flags & ROW_SAMPLE else []
        spare = len(self.tables[slot]) - -(-(start + count) // self.page_size)
        assert spare == 0 or (spare > 0 and self.drafts > 0), "as many pages as the row needs"
        self.length[slot] = start + (len(sampled) if flags & ROW_TOKEN_ON_DEVICE else count)
        for group in self.groups:
            group.rewind(slot, self.length[slot])
        if sampled:
            self.last[slot] = sampled[-1]
        return sampled

    def _decode(self, slot: int, start: int, count: int) -> list[int]:
        """The accepted drafts, and the token that follows them."""
        token, drafts = self.last[slot], []
        for position in range(start, start + count):
            self._write(slot, position, token)
            right = self._sample(slot, position + 1)
            token = right if self.rng.random() < 0.5 else self.rng.randrange(VOCAB)
            drafts.append((token, right))
        wrong = next((i for i, (draft, right) in enumerate(drafts) if draft != right), count - 1)
        return [right for _, right in drafts[: wrong + 1]]

    def _write(self, slot: int, position: int, token: int) -> None:
        table = self.tables[slot]
        before = self._read(table, position - 1) if position else 0
        page = table[position // self.page_size]
        assert not any(page in other for key, other in self.tables.items() if key != slot), "written while shared"
        self.cache[page][position % self.page_size] = entry = entry_of(
            token, position, before, [group.before(slot, position, token) for group in self.groups]
        )
        for group in self.groups:
            group.after(slot, position, entry)

    def _sample(self, slot: int, length: int) -> int:
        return sample([self._read(self.tables[slot], position) for position in range(length)])

    def begin(self, transfer: Transfer) -> None:
        """What arrives is garbage until it is complete."""
        for device, host in transfer.pages.tolist():
            if transfer.kind in ("load", "receive"):
                self.cache[device] = [self.rng.randrange(MODULUS) for _ in range(self.page_size)]
            elif transfer.kind == "store":
                self.host[host] = [self.rng.randrange(MODULUS) for _ in range(self.page_size)]

    def complete(self, transfer: Transfer, entries: list[int]) -> None:
        """Move the pages; a peer has, or gets, the request's ``entries``."""
        first = -(-transfer.tokens // self.page_size) - len(transfer.pages)
        for block, (device, host) in enumerate(transfer.pages.tolist(), start=first):
            theirs = entries[block * self.page_size : (block + 1) * self.page_size]
            if transfer.kind == "load":
                self.cache[device] = list(self.host[host])
            elif transfer.kind == "store":
                self.host[host] = list(self.cache[device])
            elif transfer.kind == "receive":
                self.cache[device][: len(theirs)] = theirs
            else:
                assert self.cache[device][: len(theirs)] == theirs, "what a peer reads is the request's"

    def _read(self, table: list[int], position: int) -> int:
        return self.cache[table[position // self.page_size]][position % self.page_size]


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


NO_GROUPS: st.SearchStrategy[list[dict[str, Any]]] = st.just([])


@st.composite
def cache_groups(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Up to three groups, ``num_pages`` beyond the fewest that are allowed."""
    windows = st.fixed_dictionaries({"kind": st.just("window"), "window": st.integers(1, 12)})
    states = st.fixed_dictionaries({"kind": st.just("state"), "checkpoint_blocks": st.integers(1, 4)})
    spare = st.fixed_dictionaries({"num_pages": st.sampled_from([0, 0, 3, 20])})
    return draw(st.lists(st.builds(dict.__or__, st.one_of(windows, states), spare), max_size=3))


@st.composite
def configs(draw: st.DrawFn, groups: st.SearchStrategy[list[dict[str, Any]]] = NO_GROUPS) -> Config:
    page_size = draw(st.integers(1, 4))
    limits = draw(limits_of(page_size))
    drawn = draw(groups)
    if drawn:  # windows and states stay where they are
        limits["host_pages"] = 0
    bare = Config(**limits)
    return Config(
        **limits,
        groups=[
            CacheGroup(**{**group, "num_pages": group["num_pages"] + least_pages(bare, CacheGroup(**group))})
            for group in drawn
        ],
    )


@st.composite
def limits_of(draw: st.DrawFn, page_size: int) -> dict[str, Any]:
    prefix_caching = draw(st.booleans())
    draft_tokens = draw(st.sampled_from([0, 0, 1, 2, 5]))
    return {
        "page_size": page_size,
        "num_pages": draw(st.integers(2, 64 // page_size)),
        "max_num_seqs": draw(st.integers(1, 5)),
        "max_model_len": draw(st.integers(8, 64)),
        "vocab_size": VOCAB,
        "chunk_tokens": 1 + draft_tokens + draw(st.integers(0, 23)),
        "draft_tokens": draft_tokens,
        "max_queued": draw(st.integers(1, 12)),
        "prefix_caching": prefix_caching,
        "host_pages": draw(st.integers(0, 20)) if prefix_caching else 0,
        "write_back_pages": draw(st.integers(1, 64)),
        "depth": draw(st.integers(1, 3)),
        "priority_tokens": draw(st.integers(0, 20)),
        "tool_wait_steps": draw(st.integers(0, 4)),
        "new_prompt_wait_steps": draw(st.integers(0, 6)),
        "growth_room": draw(st.sampled_from([0.0, 0.33, 0.9])),
        "min_tps": draw(st.sampled_from([0.0, 0.5, 200.0])),
    }


@settings(max_examples=400, deadline=None)
@given(
    configs(),
    st.lists(st.sampled_from(["submit", "submit", "plan", "plan", "settle", "transfer", "abort"]), max_size=60),
    st.integers(),
)
def test_every_trace_gives_each_request_what_it_gets_alone(config: Config, actions: list[str], seed: int) -> None:
    trace = Trace(config, seed)
    for action in actions:
        getattr(trace, action)()
    trace.finish()
    trace.check()


@settings(max_examples=400, deadline=None)
@given(
    configs(groups=cache_groups()),
    st.lists(st.sampled_from(["submit", "submit", "plan", "plan", "settle", "abort"]), max_size=60),
    st.integers(),
)
def test_with_groups_every_trace_gives_the_same(config: Config, actions: list[str], seed: int) -> None:
    trace = Trace(config, seed)
    for action in actions:
        getattr(trace, action)()
    trace.finish()
    trace.check()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("prefix_caching", [False, True])
@pytest.mark.parametrize("draft_tokens", [0, 1, 3])
def test_a_tiny_pool_preempts_and_loses_nothing(depth: int, prefix_caching: bool, draft_tokens: int) -> None:
    config = Config(
        page_size=2, num_pages=12, max_num_seqs=4, max_model_len=24, vocab_size=VOCAB, chunk_tokens=8, max_queued=100,
        prefix_caching=prefix_caching, depth=depth, draft_tokens=draft_tokens,
    )  # fmt: skip
    trace = Trace(config, 1)
    for request_id in range(40):
        prompt = [trace.rng.randrange(VOCAB) for _ in range(4)]
        trace.asked[request_id] = Asked(prompt, 16, ())
        assert trace.scheduler.submit(request_id, np.array(prompt, dtype=np.int32), 16) is None
    trace.finish()
    trace.check()
    stats = trace.scheduler.stats()
    assert stats.preemptions > 0
    assert stats.preemptions <= 40 * config.max_num_seqs
    assert stats.decode_tokens + 40 <= 40 * 16 + stats.preemptions * (1 + draft_tokens)
    assert (stats.accepted_draft_tokens > 0) == (draft_tokens > 0)
    assert stats.accepted_draft_tokens <= stats.draft_tokens


def test_the_second_turn_hits_the_output_of_the_first() -> None:
    config = Config(
        page_size=4, num_pages=64, max_num_seqs=4, max_model_len=128, vocab_size=VOCAB, chunk_tokens=16, max_queued=8
    )
    trace = Trace(config, 3)
    first = Asked([0, 1, 2, 3, 4, 0], 12, ())
    trace.asked[0] = first
    assert trace.scheduler.submit(0, np.array(first.prompt, dtype=np.int32), 12) is None
    trace.finish()
    second = Asked(first.prompt + first.got + [1, 1], 4, ())
    trace.asked[1] = second
    assert trace.scheduler.submit(1, np.array(second.prompt, dtype=np.int32), 4) is None
    trace.finish()
    trace.check()
    assert second.cached == (6 + 12 - 1) // 4 * 4, "all but the last token has been computed"
    stats = trace.scheduler.stats()
    assert (stats.prefix_query_tokens, stats.prefix_hit_tokens) == (6 + 20, second.cached)
    assert stats.prefill_tokens == 6 + 20 - second.cached


def test_a_conversation_goes_on_from_the_host() -> None:
    config = Config(
        page_size=2, num_pages=12, max_num_seqs=2, max_model_len=64, vocab_size=VOCAB, chunk_tokens=16, max_queued=8,
        host_pages=40, write_back_pages=12, growth_room=0.0,
    )  # fmt: skip
    trace = Trace(config, 2)
    talks = [Asked([talk, 1, 2, 3, 4, talk], 4, ()) for talk in range(4)]
    for turn in range(3):
        for talk, asked in enumerate(talks):
            request_id = turn * len(talks) + talk
            trace.asked[request_id] = asked
            prompt = np.array(asked.prompt, dtype=np.int32)
            assert trace.scheduler.submit(request_id, prompt, 4, session=True) is None
            for _ in range(200):
                trace.plan()
                if trace.transfers:
                    (transfer,) = trace.transfers
                    trace.worker.complete(transfer, [])
                    trace.scheduler.end_transfer(transfer.id, True)
                    trace.transfers.clear()
                trace.settle()
            assert asked.finish == "length"
        trace.check()
        talks = [Asked([*asked.prompt, *asked.got, 0], 4, ()) for asked in talks]
    stats = trace.scheduler.stats()
    assert stats.host_loaded_pages > 0
    assert stats.prefill_tokens <= 4 * (6 + 3 + 3) + 2 * 4, "each turn computes what is new, and part of a block"


GROUPS = [
    CacheGroup(kind="window", num_pages=40, window=6),
    CacheGroup(kind="state", num_pages=20, checkpoint_blocks=2),
]


def with_groups() -> Trace:
    """After a first turn of 6 + 12 tokens."""
    config = Config(
        page_size=4, num_pages=64, max_num_seqs=4, max_model_len=128, vocab_size=VOCAB, chunk_tokens=16, max_queued=8,
        groups=GROUPS,
    )  # fmt: skip
    trace = Trace(config, 3)
    trace.asked[0] = Asked([0, 1, 2, 3, 4, 0], 12, ())
    assert trace.scheduler.submit(0, np.array(trace.asked[0].prompt, dtype=np.int32), 12) is None
    trace.finish()
    return trace


def second_turn(trace: Trace) -> Asked:
    asked = Asked(trace.asked[0].prompt + trace.asked[0].got + [1, 1], 4, ())
    trace.asked[1] = asked
    assert trace.scheduler.submit(1, np.array(asked.prompt, dtype=np.int32), 4) is None
    return asked


def test_with_groups_the_second_turn_hits_as_far_as_all_agree() -> None:
    trace = with_groups()
    second = second_turn(trace)
    trace.finish()
    trace.check()
    assert second.cached == 16, "the last checkpoint of the state"


@pytest.mark.parametrize("group", [0, 1])
def test_the_trace_notices_a_wrong_page_of_a_group(group: int) -> None:
    trace = with_groups()
    second_turn(trace)
    pages = trace.worker.groups[group].cache
    for page in trace.scheduler.snapshot().groups[group].attached:
        pages[page] = [value + 1 for value in pages[page]]
    trace.finish()
    with pytest.raises(AssertionError):
        trace.check()


def test_a_request_goes_on_at_a_peer() -> None:
    """One machine computes prompts, another answers; their pages have other numbers there."""
    config = Config(
        page_size=4, num_pages=40, max_num_seqs=4, max_model_len=64, vocab_size=VOCAB, chunk_tokens=16, max_queued=8
    )
    prompts, answers = Trace(config, 1), Trace(config, 2)
    for request_id, prompt in enumerate([[1, 2, 3, 4, 0, 1, 2, 3, 4], [1, 2, 3, 4, 0, 3], [0, 0, 2]]):
        asked = Asked(prompt, 12, ())
        prompts.asked[request_id] = asked
        assert prompts.scheduler.submit(request_id, np.array(prompt, dtype=np.int32), 12, send=True) is None
        while asked.finish is None:
            prompts.plan()
            prompts.settle()
        assert (asked.finish, len(asked.got)) == ("sent", 1)
        (send,) = prompts.transfers
        assert (send.kind, send.request, send.tokens) == ("send", request_id, len(prompt))

        going_on = Asked(prompt + asked.got, 11, ())
        answers.asked[request_id] = going_on
        peer = answers.scheduler
        assert peer.submit(request_id, np.array(going_on.prompt, dtype=np.int32), 11, receive=True) is None
        answers.plan()
        (receive,) = answers.transfers
        assert (receive.kind, receive.tokens) == ("receive", send.tokens)
        cached = len(send.pages) - len(receive.pages)  # what the peer has it does not ask for
        for theirs, ours in zip(send.pages[cached:, 0].tolist(), receive.pages[:, 0].tolist(), strict=True):
            answers.worker.cache[ours] = list(prompts.worker.cache[theirs])
        for trace, transfer in ((prompts, send), (answers, receive)):
            trace.scheduler.end_transfer(transfer.id, True)
            trace.transfers.clear()
        answers.finish()
        assert asked.got + going_on.got == generate_alone(prompt, 12, ())[0]
    prompts.check()
    answers.check()
    assert answers.scheduler.stats().prefill_tokens == 3, "the peer computes one token of each prompt"
    assert answers.asked[1].cached == 4


def test_the_trace_notices_a_wrong_page() -> None:
    """The oracle is worth something: a worker with two pages swapped gives other tokens."""
    config = Config(
        page_size=2, num_pages=16, max_num_seqs=2, max_model_len=32, vocab_size=VOCAB, chunk_tokens=16, max_queued=8
    )
    trace = Trace(config, 5)
    trace.asked[0] = Asked([1, 2, 3, 4, 0, 1], 10, ())
    assert trace.scheduler.submit(0, np.array([1, 2, 3, 4, 0, 1], dtype=np.int32), 10) is None
    trace.plan()
    trace.settle()
    (table,) = trace.worker.tables.values()
    table[0], table[1] = table[1], table[0]
    trace.finish()
    with pytest.raises(AssertionError):
        trace.check()
