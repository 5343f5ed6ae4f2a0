"""Configuration that the launcher hands to the processes it starts, as one JSON file each (msgspec, no pickle)."""

import msgspec


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the scheduler process. Addresses are ZeroMQ endpoints; it binds the first two kinds and connects the last.

    Page size, pages, slots and context length come from the worker's ``Hello``.
    """

    entry_address: str
    worker_addresses: tuple[str, ...]
    control_address: str
    fingerprint: str
    chunk_tokens: int
    """Most tokens of one step, decodes included."""
    max_queued: int
    """Requests that may wait; one more is rejected as ``queue_full``."""
    max_queued_tokens: int = 0
    """Prompt tokens that may wait; 0: no limit."""
    max_queued_per_user: int = 0
    """Requests of one user that may wait; 0: no limit."""
    priority_tokens: int = 65_536
    """Tokens of service by which a level of priority goes ahead."""
    tool_wait_steps: int = 512
    """Steps for which new prompts leave a session's idle pages to it."""
    new_prompt_wait_steps: int = 8192
    """Steps for which a new prompt may be passed by conversations that go on."""
    growth_room: float = 0.33
    """Part of the pages that new prompts leave for conversations to grow into."""
    min_tps: float = 0.0
    """Tokens per second that each decoding user keeps; 0: no floor."""
    prefix_caching: bool = True
    parent_pid: int = 0
    """Process to end with; 0 takes whichever is the parent when the process starts."""
    debug: bool = False
    """Print tracebacks of start-up errors."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one worker process."""

    rank: int
    world_size: int
    checkpoint: str
    """Directory with config.json and safetensors."""
    device: str
    """``cpu`` or ``cuda:N``."""
    dtype: str
    """Of activations: ``auto``, ``float32`` or ``bfloat16``."""
    kv_cache_dtype: str
    """``auto``, ``float32`` or ``bfloat16``."""
    load_format: str
    """``auto``, ``safetensors`` or ``dummy`` (random weights)."""
    scheduler_address: str
    control_address: str
    fingerprint: str
    page_size: int
    kv_cache_tokens: int
    """Tokens that the paged cache holds; 0 chooses from the free memory."""
    max_num_seqs: int
    max_model_len: int
    """Longest sequence; 0 takes the checkpoint's."""
    chunk_tokens: int
    mesh: str = ""
    """How ``world_size`` ranks cut the model, as ``attn_tp=4,moe_ep=4``; empty for one."""
    rendezvous: str = ""
    """``HOST:PORT`` where rank 0 listens and the others meet it; empty for one rank."""
    threads: int = 0
    """CPU threads of the forward pass; 0 chooses."""
    parent_pid: int = 0
    """Process to end with; 0 takes whichever is the parent when the process starts."""
    debug: bool = False
    """Print tracebacks of start-up errors."""
