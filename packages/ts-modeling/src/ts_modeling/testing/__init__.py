"""For tests of this and other packages: tiny random checkpoints in the real format, batches over shuffled pages, and
transformers' implementation as the oracle.

``write_checkpoint`` makes a folder as a Kimi K2.5 checkpoint is laid out (a plain DeepSeek V3 with ``nested=False``),
routed experts in INT4 unless told otherwise; ``oracle`` loads such a folder, dequantized, into transformers.
``write_tiny`` makes a checkpoint of any other model, by way of transformers.
"""

from .batches import Sequences
from .checkpoints import (
    INT4,
    MIXED,
    TINY,
    dequantized,
    pack_int4,
    random_tensors,
    save_tensors,
    text_config,
    unpack_int4,
    write_checkpoint,
)
from .formats import FORMATS, Format, meaning
from .oracle import assert_close, oracle, oracle_logits
from .quantized import mxfp4_experts, quantize_tiny
from .runs import new_cache, run_chunked, run_decodes, run_mixed, run_whole
from .tiny import MODELS, tiny_config, write_tiny
from .vision import MEDIA_TOKEN, TINY_VISION, vision_oracle, vision_tensors, write_vision_checkpoint

__all__ = [
    "FORMATS",
    "INT4",
    "MEDIA_TOKEN",
    "MIXED",
    "MODELS",
    "TINY",
    "TINY_VISION",
    "Format",
    "Sequences",
    "assert_close",
    "dequantized",
    "meaning",
    "mxfp4_experts",
    "new_cache",
    "oracle",
    "oracle_logits",
    "pack_int4",
    "quantize_tiny",
    "random_tensors",
    "run_chunked",
    "run_decodes",
    "run_mixed",
    "run_whole",
    "save_tensors",
    "text_config",
    "tiny_config",
    "unpack_int4",
    "vision_oracle",
    "vision_tensors",
    "write_checkpoint",
    "write_tiny",
    "write_vision_checkpoint",
]
