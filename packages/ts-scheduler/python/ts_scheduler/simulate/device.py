"""What a forward step costs on a device.

A step takes: a fixed time, the time to read the weights that its tokens touch, a time for each token computed, a time
for each cached token that a decode reads, and a time for each pair of a prefilled token and a token that it attends to.
The presets are arithmetic on published figures, not measurements of this engine on such a machine; ``source`` says
which.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Device:
    """One replica's hardware and model: seconds and tokens."""

    name: str
    gpus: int
    kv_tokens: int
    """Tokens that the KV cache holds."""
    fixed_s: float
    """Launches, collectives and the weights that every step reads."""
    experts_s: float
    """Reading all routed experts once."""
    expert_share: float
    """Share of the experts that one token touches."""
    token_s: float
    """Computing one token."""
    kv_token_s: float
    """Reading one cached token for one decode."""
    pair_s: float
    """One prefilled token attending to one token."""
    source: tuple[str, ...] = field(default=())

    def step_seconds(self, starts: NDArray[np.int32], counts: NDArray[np.int32]) -> float:
        """Seconds of a step whose rows begin at ``starts`` [n] and compute ``counts`` [n] tokens each."""
        tokens, kv_read, pairs = float(counts.sum()), float(starts.sum()) + len(starts), 0.0
        if tokens > len(counts):  # not decodes alone
            prefill = counts > 1
            start, count = starts[prefill].astype(np.float64), counts[prefill].astype(np.float64)
            kv_read -= float((start + 1).sum())
            pairs = float((count * start + count * count / 2).sum())
        touched: float = 1.0 - (1.0 - self.expert_share) ** tokens
        return (
            self.fixed_s
            + self.experts_s * touched
            + self.token_s * tokens
            + self.kv_token_s * kv_read
            + self.pair_s * pairs
        )


KIMI_EXPERT_PARAMETERS = 60 * 384 * 3 * 7168 * 2048
KIMI_OTHER_PARAMETERS = 10.5e9
KIMI_ACTIVE_PARAMETERS = 32e9
KIMI_KV_BYTES = 61 * 576  # one latent of 512 and 64 rotated values a layer, in FP8
KIMI_PAIR_FLOP = 61 * 64 * 2 * (128 + 64 + 128)  # layers, heads, scores and values


def kimi_k25(
    name: str,
    *,
    gpus: int,
    memory_gb: float,
    bandwidth: float,
    flops: float,
    expert_bytes: float,
    launch_s: float,
    source: tuple[str, ...],
) -> Device:
    """Kimi K2.5, attention and experts split over all GPUs of the replica, the latent cache held by each (FP8).

    ``bandwidth`` [bytes/s] and ``flops`` [1/s] are what kernels reach on one GPU, not the data sheet's;
    ``expert_bytes`` a parameter of a routed expert; ``launch_s`` launches and collectives of a step.
    """
    experts = KIMI_EXPERT_PARAMETERS * expert_bytes / gpus
    others = KIMI_OTHER_PARAMETERS * 2 / gpus
    spare = 0.9 * memory_gb * GB - experts - others
    return Device(
        name=name,
        gpus=gpus,
        kv_tokens=int(spare / KIMI_KV_BYTES),
        fixed_s=launch_s + others / bandwidth,
        experts_s=experts / bandwidth,
        expert_share=8 / 384,
        token_s=2 * KIMI_ACTIVE_PARAMETERS / (gpus * flops),
        kv_token_s=KIMI_KV_BYTES / bandwidth,
        pair_s=KIMI_PAIR_FLOP / (gpus * flops),
        source=source,
    )


_MODEL_SOURCE = (
    "Kimi K2.5's config.json: 61 layers, hidden 7168, 384 experts of width 2048, top 8, 64 heads, latent 512 + 64; "
    "32e9 active parameters (model card)"
)

PRESETS = {
    device.name: device
    for device in (
        kimi_k25(
            "kimi-k2.5-8xh200",
            gpus=8,
            memory_gb=141,
            bandwidth=0.75 * 4.3e12,
            flops=0.45 * 790e12,
            expert_bytes=0.5 + 2 / 32,
            launch_s=4e-3,
            source=(
                _MODEL_SOURCE,
                "one H200, measured: copy 4.3 TB/s, bf16 product 790 TFLOP/s; kernels taken to reach 75 % and 45 %",
                "INT4 experts, a bf16 scale for each 32 values, all else bf16, FP8 cache, 10 % of memory free",
                "4 ms for launches and 122 collectives: an assumption",
            ),
        ),
        kimi_k25(
            "kimi-k2.5-4xb200",
            gpus=4,
            memory_gb=192,
            bandwidth=0.75 * 8e12,
            flops=0.45 * 2250e12,
            expert_bytes=0.5 + 1 / 16,
            launch_s=3e-3,
            source=(
                _MODEL_SOURCE,
                "B200 data sheet: 192 GB, 8 TB/s, 2,250 TFLOP/s dense bf16; kernels taken to reach 75 % and 45 %",
                "NVFP4 experts, an FP8 scale for each 16 values, all else bf16, FP8 cache, 10 % of memory free",
                "3 ms for launches and 122 collectives: an assumption",
            ),
        ),
    )
}
"""Devices by name."""
