"""Messages between the processes of TokenSpeed.

Every message is a msgspec Struct with a tag, encoded as msgpack. Large integer arrays travel as extra frames of the
same ZeroMQ multipart message (see ``channels``); a message that has frames says here which ones, in which order, with
dtype and shape, and ``FRAME_COLUMNS`` says it to the channels. Nothing is ever pickled.

All structs are array-like: compact, and fields with defaults may be appended without breaking an older reader.

    entry  --Submit, Abort-->                 scheduler --StepPlan-->   worker
    entry  <--TokenBatch, Rejected, RequestFailed, Stats--   scheduler <--StepResult-- worker
    supervisor (in entry) <--Progress, Ready, Failed, Heartbeat-- scheduler, worker
"""

from typing import Final, Literal

import msgspec

PROTOCOL_VERSION: Final = 3

FinishReason = Literal["stop", "length", "abort"]
RejectionCode = Literal["duplicate", "empty_prompt", "too_long", "never_fits", "queue_full", "invalid"]
Role = Literal["entry", "scheduler", "worker"]


class SamplingParams(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How a request's tokens are drawn.

    ``temperature`` 0 means greedy. ``top_k`` 0 and ``top_p`` 1 mean no truncation. Draws depend only on ``seed`` and
    the position in the sequence, so batching and preemption never change a request's tokens.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


# --- entry -> scheduler -------------------------------------------------------------------------------------------


class Submit(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="submit"):
    """A new request. One frame: the prompt, int32 ``[n_prompt]``.

    ``stop_token_ids`` end the request with finish reason ``stop``; the matched token is reported and not part of text.
    ``max_tokens`` is at least 1. ``priority`` goes from -1000 to 1000, higher first. ``user`` names whose request it
    is, for fairness. ``session`` announces that a next turn will come and is worth keeping the prefix for. Prefixes are
    reused between requests of one ``cache_salt`` alone.
    """

    request_id: int
    max_tokens: int
    stop_token_ids: tuple[int, ...]
    sampling: SamplingParams
    priority: int = 0
    user: str = ""
    session: bool = False
    cache_salt: str = ""


class Abort(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="abort"):
    """The client no longer wants this request. Unknown or finished ids are ignored: the race is a normal one."""

    request_id: int


# --- scheduler -> entry -------------------------------------------------------------------------------------------


class TokenOutput(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one settled step gave one request. ``cached_tokens`` counts prompt tokens taken from the prefix cache."""

    request_id: int
    tokens: tuple[int, ...]
    cached_tokens: int
    finish: FinishReason | None = None


class TokenBatch(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="tokens"):
    """Everything that one settled step gave, for all requests."""

    outputs: list[TokenOutput]


class Rejected(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="rejected"):
    """A ``Submit`` that the scheduler did not take, and why."""

    request_id: int
    code: RejectionCode
    message: str


class RequestFailed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="request_failed"):
    """A request that was taken has ended without an answer; ``message`` says why. No other request is concerned."""

    request_id: int
    message: str


class Stats(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="stats"):
    """Counters (cumulative) and gauges of the scheduler, sent at most twice a second while they change."""

    requests_running: int
    requests_waiting: int
    pages_used: int
    pages_total: int
    prefix_query_tokens: int
    prefix_hit_tokens: int
    prefill_tokens: int
    decode_tokens: int
    preemptions: int
    steps: int
    pages_cached: int = 0
    """Pages that the prefix cache alone holds."""
    tokens_waiting: int = 0
    """Prompt tokens of the waiting requests."""
    prefix_queries: int = 0
    prefix_hits: int = 0
    """Requests that found a cached prefix, of those that looked for one."""
    prefix_evictions: int = 0
    """Pages that the prefix cache gave up."""
    draft_tokens: int = 0
    """Positions that decodes reserved for drafts."""
    accepted_draft_tokens: int = 0
    """Those whose draft was accepted."""


# --- scheduler <-> worker -----------------------------------------------------------------------------------------

ROW_SAMPLE: Final = 1
"""Row flag: the row's last position yields a sampled token."""
ROW_TOKEN_ON_DEVICE: Final = 2
"""Row flag: the row's first token is the slot's last sampled one, which stays on the device."""


UNUSABLE: Final = -1
"""In place of a token: the row's logits allow none (not a number, or infinite)."""


class SlotAdmit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A slot starts (or restarts, after preemption) serving a request: its block table is emptied, then filled by the
    plan's page frame."""

    slot: int
    sampling: SamplingParams


class StepPlan(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="plan"):
    """One forward step; only what changed since the previous plan.

    ``decodes`` is a bitmap, bit i of byte i // 8 for slot i, as long as its last bit needs. Each of these slots has a
    row that feeds on the device token, samples, and starts where the slot's last row ended, less its rejected drafts.
    It is one token long, or one more than the drafts of a worker that speculates. These rows come first, by slot; the
    others follow:

    * ``rows [n_rows, 4]``: slot, start position, number of tokens, flags (``ROW_*``). Rows that feed on the device
      token (decodes) come first, then prefill chunks. A slot has at most one row in a plan. A decode of more than one
      token leaves the others to drafts; the worker knows where it starts: behind a row with drafts whose result is not
      back yet, ``start`` is the position if all of them are accepted.
    * ``tokens [n]``: token ids of the rows without ``ROW_TOKEN_ON_DEVICE``, concatenated in row order.
    * ``pages [n, 4]``: slot, group, block, page: from before the step on, the page is the slot's for that block of the
      group. Group 0 is full attention, whose blocks of a slot come in order; the others are ``KvCapacity.groups``,
      counting from 1. A window group's first block may be any, and a row reads none of a block that ends before the
      window of its first position. A state group has one page a slot, block 0; a slot admitted without a load starts
      from the empty state.
    * ``states [n, 5]``: slot, group, page, position, save. With ``save`` 0 the slot's state becomes a copy of the page
      before the step; ``position`` tokens are in it and the slot's row starts there. With ``save`` 1 the page becomes a
      copy of the slot's state as it is after ``position`` tokens, a block bound within the slot's row or at its end.
    """

    step: int
    admits: list[SlotAdmit]
    releases: list[int]
    decodes: bytes = b""


class StepResult(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="result"):
    """A finished step. One int32 frame: the sampled tokens of each ``ROW_SAMPLE`` row, in row order.

    ``UNUSABLE`` stands for a token that could not be drawn; only that row's request fails. ``duration_ns`` is how long
    the device worked on the step, 0 when that is not known. ``accepted`` says how many tokens each of these rows has,
    at least one: a row of 1 + d positions checks d drafts, and gives the accepted ones and the token that follows them.
    Empty: one each. ``UNUSABLE`` stands alone in its row; a row ends before a token that could not be drawn.
    """

    step: int
    duration_ns: int = 0
    accepted: tuple[int, ...] = ()


# --- handshake ----------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """First message of the connecting side on every data channel."""

    protocol: int
    role: Role
    fingerprint: str
    rank: int = 0
    kv: "KvCapacity | None" = None


class CacheGroup(msgspec.Struct, frozen=True, array_like=True):
    """Layers whose cache has pages of its own, beside full attention's.

    A position of a ``window`` group attends to the last ``window`` tokens, itself included. A ``state`` group holds one
    state a page; there is a checkpoint every ``checkpoint_blocks`` blocks.
    """

    kind: Literal["window", "state"]
    num_pages: int
    window: int = 0
    checkpoint_blocks: int = 0


class KvCapacity(msgspec.Struct, frozen=True, array_like=True):
    """What a worker can hold: the scheduler configures itself from it. ``num_pages`` are full attention's."""

    page_size: int
    num_pages: int
    max_num_seqs: int
    max_model_len: int
    vocab_size: int
    groups: tuple[CacheGroup, ...] = ()


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag="welcome"):
    """The binding side agrees. The scheduler tells the entry the capacity it took from its workers."""

    protocol: int
    role: Role
    fingerprint: str
    kv: KvCapacity | None = None


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The binding side does not agree; ``reason`` is one sentence for a person."""

    reason: str


# --- any child -> supervisor --------------------------------------------------------------------------------------


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="progress"):
    """A phase of starting up: ``done`` of ``total`` (bytes for weights; total 0 when unknown)."""

    role: Role
    rank: int
    phase: str
    done: int = 0
    total: int = 0
    detail: str = ""


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The process serves. ``detail`` holds facts for the banner (dtype, device, KV tokens and so on)."""

    role: Role
    rank: int
    detail: dict[str, str] = {}


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """The process is about to exit; ``message`` is one clear sentence for a person."""

    role: Role
    rank: int
    message: str


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag="heartbeat"):
    """Sent twice a second by a child's main loop; ``steps`` shows forward progress."""

    role: Role
    rank: int
    steps: int


EntryToScheduler = Hello | Submit | Abort
SchedulerToEntry = Welcome | Refused | TokenBatch | Rejected | RequestFailed | Stats
SchedulerToWorker = Welcome | Refused | StepPlan
WorkerToScheduler = Hello | StepResult
ChildToSupervisor = Progress | Ready | Failed | Heartbeat

FRAME_COLUMNS: Final[dict[type, tuple[int, ...]]] = {Submit: (1,), StepPlan: (4, 1, 4, 5), StepResult: (1,)}
"""Columns of each int32 frame that follows a message of this type; types that are not listed have no frames."""
