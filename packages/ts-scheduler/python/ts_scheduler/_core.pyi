from collections.abc import Sequence
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

@final
class CacheGroup:
    """A part of the cache beside full attention's: layers with a sliding window of ``window`` tokens, or one running
    state a request, with a checkpoint every ``checkpoint_blocks`` blocks."""

    def __init__(
        self, *, kind: Literal["window", "state"], num_pages: int, window: int = 0, checkpoint_blocks: int = 0
    ) -> None: ...
    @property
    def kind(self) -> Literal["window", "state"]: ...
    @property
    def num_pages(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def checkpoint_blocks(self) -> int: ...

@final
class Config:
    """Limits of one scheduler: sizes in tokens unless named otherwise; ``depth`` (1 to 3) steps in flight."""

    def __init__(
        self,
        *,
        page_size: int,
        num_pages: int,
        max_num_seqs: int,
        max_model_len: int,
        vocab_size: int,
        chunk_tokens: int,
        max_queued: int,
        prefix_caching: bool = True,
        depth: int = 2,
        max_queued_tokens: int = 0,
        max_queued_per_user: int = 0,
        priority_tokens: int = 65_536,
        tool_wait_steps: int = 512,
        new_prompt_wait_steps: int = 8192,
        growth_room: float = 0.33,
        host_pages: int = 0,
        write_back_pages: int = 64,
        min_tps: float = 0.0,
        draft_tokens: int = 0,
        groups: Sequence[CacheGroup] = (),
    ) -> None:
        """0 means no limit for ``max_queued_tokens`` (prompt tokens) and ``max_queued_per_user``, no floor for
        ``min_tps``. A level of priority goes ``priority_tokens`` of service ahead. New prompts leave a session's idle
        pages to it for ``tool_wait_steps``, and ``growth_room`` of all pages for conversations to grow into; they are
        passed by conversations for ``new_prompt_wait_steps`` at most. With ``host_pages`` above 0, copies of cached
        pages are kept in as many pages of host memory: those of the ``write_back_pages`` next to be evicted. Decodes
        reserve ``draft_tokens`` positions (0 to 32) beside their own for a worker that speculates.
        """
    @property
    def page_size(self) -> int: ...
    @property
    def num_pages(self) -> int: ...
    @property
    def max_num_seqs(self) -> int: ...
    @property
    def max_model_len(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def chunk_tokens(self) -> int: ...
    @property
    def max_queued(self) -> int: ...
    @property
    def prefix_caching(self) -> bool: ...
    @property
    def depth(self) -> int: ...
    @property
    def max_queued_tokens(self) -> int: ...
    @property
    def max_queued_per_user(self) -> int: ...
    @property
    def priority_tokens(self) -> int: ...
    @property
    def tool_wait_steps(self) -> int: ...
    @property
    def new_prompt_wait_steps(self) -> int: ...
    @property
    def growth_room(self) -> float: ...
    @property
    def host_pages(self) -> int: ...
    @property
    def write_back_pages(self) -> int: ...
    @property
    def min_tps(self) -> float: ...
    @property
    def draft_tokens(self) -> int: ...
    @property
    def groups(self) -> list[CacheGroup]: ...

@final
class Rejection:
    """Why a submission was not taken."""

    @property
    def code(self) -> Literal["duplicate", "empty_prompt", "too_long", "never_fits", "queue_full", "invalid"]: ...
    @property
    def message(self) -> str: ...

@final
class Plan:
    """One forward step, as ``ts_protocol.messages.StepPlan`` describes it; the arrays are the caller's."""

    @property
    def step(self) -> int: ...
    @property
    def rows(self) -> NDArray[np.int32]:
        """``[n_rows, 4]``: slot, start position, number of tokens, flags."""
    @property
    def tokens(self) -> NDArray[np.int32]:
        """``[n]``: token ids of the rows that do not feed on the device token."""
    @property
    def pages(self) -> NDArray[np.int32]:
        """``[n, 4]``: slot, group (0: full attention), block, page."""
    @property
    def states(self) -> NDArray[np.int32]:
        """``[n, 5]``: slot, group, page, position, save."""
    @property
    def admits(self) -> list[tuple[int, int]]:
        """Slots that start serving a request: slot, request id."""
    @property
    def releases(self) -> list[int]:
        """Slots that serve nobody any more."""

@final
class Stats:
    """Counters since the start, and gauges of now, as ``ts_protocol.messages.Stats``."""

    @property
    def requests_running(self) -> int: ...
    @property
    def requests_waiting(self) -> int: ...
    @property
    def pages_used(self) -> int: ...
    @property
    def pages_total(self) -> int: ...
    @property
    def pages_cached(self) -> int: ...
    @property
    def tokens_waiting(self) -> int: ...
    @property
    def prefix_queries(self) -> int: ...
    @property
    def prefix_hits(self) -> int: ...
    @property
    def prefix_evictions(self) -> int: ...
    @property
    def prefix_query_tokens(self) -> int: ...
    @property
    def prefix_hit_tokens(self) -> int: ...
    @property
    def prefill_tokens(self) -> int: ...
    @property
    def decode_tokens(self) -> int: ...
    @property
    def draft_tokens(self) -> int: ...
    @property
    def accepted_draft_tokens(self) -> int: ...
    @property
    def preemptions(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def host_pages_used(self) -> int: ...
    @property
    def host_hit_tokens(self) -> int: ...
    @property
    def host_stored_pages(self) -> int: ...
    @property
    def host_loaded_pages(self) -> int: ...
    @property
    def transfers_failed(self) -> int: ...

@final
class Transfer:
    """Pages to be moved, in the order of their tokens where they belong to a request."""

    @property
    def id(self) -> int: ...
    @property
    def kind(self) -> Literal["store", "load", "receive", "send"]:
        """Device to host, host to device, from a peer, to a peer."""
    @property
    def request(self) -> int:
        """0 for a store."""
    @property
    def tokens(self) -> int:
        """Of the request, up to where its pages are filled when the transfer has ended."""
    @property
    def pages(self) -> NDArray[np.int32]:
        """``[n, 2]``: device page, host page or -1."""

@final
class RequestGroupSnapshot:
    @property
    def first(self) -> int: ...
    @property
    def pages(self) -> list[int]: ...
    @property
    def source(self) -> int: ...
    @property
    def checkpoints(self) -> list[int]: ...

@final
class GroupSnapshot:
    @property
    def free(self) -> list[int]: ...
    @property
    def attached(self) -> list[int]: ...
    @property
    def idle(self) -> list[int]: ...
    @property
    def references(self) -> list[int]: ...

@final
class RequestSnapshot:
    @property
    def id(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def slot(self) -> int: ...
    @property
    def pages(self) -> list[int]: ...
    @property
    def planned(self) -> int: ...
    @property
    def settled(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def retention(self) -> int: ...
    @property
    def groups(self) -> list[RequestGroupSnapshot]: ...

@final
class Snapshot:
    """The whole state, copied out, for tests and debugging."""

    @property
    def requests(self) -> list[RequestSnapshot]: ...
    @property
    def free(self) -> list[int]: ...
    @property
    def cached(self) -> list[int]: ...
    @property
    def idle(self) -> list[int]: ...
    @property
    def idle_retention(self) -> list[int]: ...
    @property
    def line(self) -> list[int]: ...
    @property
    def references(self) -> list[int]: ...
    @property
    def host_order(self) -> list[int]: ...
    @property
    def host_references(self) -> list[int]: ...
    @property
    def transfers(self) -> int: ...
    @property
    def steps_in_flight(self) -> int: ...
    @property
    def groups(self) -> list[GroupSnapshot]: ...

@final
class Scheduler:
    """The control plane: who runs next, on which pages. Not thread-safe; every call returns at once."""

    def __init__(self, config: Config) -> None:
        """Raises ``ValueError`` naming the field of ``config`` that is out of range."""
    def submit(
        self,
        request_id: int,
        prompt: NDArray[np.int32],
        max_tokens: int,
        stop_token_ids: tuple[int, ...] = (),
        *,
        priority: int = 0,
        user: int = 0,
        session: bool = False,
        send: bool = False,
        receive: bool = False,
        cache_salt: bytes = b"",
        sampling: bytes = b"",
    ) -> Rejection | None:
        """Take a request with its prompt ``[n]`` into the queue, or say why not.

        With ``send``, a peer takes the request over after its first token, which comes with finish reason ``sent``,
        and reads its pages. With ``receive``, a peer has computed all but the prompt's last token and writes the pages.
        ``session`` announces a next turn; prefixes are reused within one ``cache_salt`` (at most 16 bytes);
        ``sampling`` is MessagePack for the worker, which the plan that admits the request carries.
        """
    def abort(self, request_id: int) -> bool:
        """End a request in any state; false when it is unknown or already ending.

        The pages of a step in flight return when that step settles. Nothing further is reported for the request.
        """
    def plan(self) -> Plan | None:
        """The next step, or ``None`` when there is nothing to run or ``depth`` steps are unsettled."""
    def plan_frames(self) -> tuple[bytes, bytes, bytes, bytes, bytes] | None:
        """``plan()`` as it goes to a worker: an encoded ``StepPlan``, its int32 frames rows, tokens, pages, states.

        Rows that are bits of the message's ``decodes`` are not in the frame.
        """
    def settle(
        self, step: int, tokens: NDArray[np.int32], duration_ns: int = 0, accepted: Sequence[int] = ()
    ) -> list[tuple[int, int, int, Literal["stop", "length", "unusable", "sent"] | None]]:
        """Take the sampled tokens of the oldest unsettled step, of each sampling row, in row order.

        -1 stands for a token that the worker could not draw: its request ends as ``unusable``. ``duration_ns`` is how
        long the step took, 0 when that is not known; the floor learns from it. ``accepted`` is how many tokens each of
        these rows has, the accepted drafts and one more; empty for one each.

        Returns request id, token, cached prompt tokens and finish reason for each token that a request gained.
        Raises ``ts_scheduler.SettleError`` when the result does not fit, leaving the scheduler as it was.
        """
    def settle_frames(
        self, step: int, tokens: NDArray[np.int32], duration_ns: int = 0, accepted: Sequence[int] = ()
    ) -> tuple[bytes, list[int], list[int]]:
        """``settle()`` with the outputs as one encoded ``TokenBatch``, empty for none.

        Beside it: the requests that have finished, and those that failed for want of a token.
        """
    def transfers(self) -> list[Transfer]:
        """The transfers to be made, begun since the last call: ask after each ``plan()`` and ``settle()``.

        Until the end of one is reported nobody else writes or reuses either side of it.
        """
    def end_transfer(self, transfer: int, arrived: bool) -> None:
        """A transfer has ended; what failed to arrive is computed, and a copy that failed is forgotten.

        Raises ``ts_scheduler.TransferError`` when it is not under way, leaving the scheduler as it was.
        """
    def step_cost(self) -> list[float]:
        """What a step costs, as fitted, in seconds: fixed, more if there is a prompt in it, per prefill token, per pair
        of a prefilled token and one that it attends to, per decode row, per KV token that decodes read.
        """
    def stats(self) -> Stats: ...
    def idle(self) -> bool:
        """No request waits, runs or drains. Copies to the host may be under way."""
    def snapshot(self) -> Snapshot: ...

def least_pages(config: Config, group: CacheGroup) -> int:
    """The pages with which a group never runs out, whatever requests hold at once: fewer are refused."""

def transition_diagram() -> str:
    """The request state machine as a mermaid diagram, made from the transition table."""

def transition_table() -> str:
    """The same as a table in Markdown: a line for each state."""
