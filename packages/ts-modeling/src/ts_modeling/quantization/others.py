"""What other tools write as ``quantization_config``: FP8 and MXFP4 as transformers reads them, and ModelOpt.

Their lists of modules left alone are names, beginnings or ends of names, or patterns; all become the ``re:`` form here.
"""

import fnmatch
import re
from collections.abc import Mapping
from typing import Any, Final

from ..errors import ConfigError, shown
from .compressed_tensors import block_sizes
from .config import NAME, Group, Quantization, cache_advice, expect, patterns
from .fp4 import Mxfp4, Nvfp4
from .fp8 import INPUT_SCALE, Fp8Block, Fp8Channel
from .scheme import Scheme

HEAD: Final = "lm_head"
_END: Final = fnmatch.translate("")[len("(?s:)") :]
_BOUND: Final = r"(?:\.|$)"


def parse_fp8(raw: Mapping[str, Any]) -> Quantization:
    """``quant_method: fp8``: blocks (``weight_scale_inv``), or without ``weight_block_size`` one ``weight_scale`` each.

    The language model head is never quantized. Raises ``ConfigError`` naming the field.
    """
    if raw.get("fmt", "e4m3") not in ("e4m3", "float8_e4m3fn"):
        raise ConfigError(f"{NAME}.fmt = {shown(raw['fmt'])} is not supported; only 'e4m3' is")
    for field, allowed in (("expert_dtype", ("fp8",)), ("modules_to_convert", ([],))):
        if raw.get(field) is not None and raw[field] not in allowed:
            raise ConfigError(f"{NAME}.{field} = {shown(raw[field])} is not supported; only {allowed[0]!r} is")
    static = expect({"activation_scheme": "dynamic", **raw}, "activation_scheme", ("dynamic", "static"), NAME)
    beside = (INPUT_SCALE,) if static == "static" else ()
    blocks = raw.get("weight_block_size")
    scheme: Scheme = Fp8Channel(whole=True, beside=beside)
    if blocks is not None:
        scheme = Fp8Block(block_sizes(blocks, f"{NAME}.weight_block_size"), beside=beside)
    return Quantization((Group(("Linear",), scheme),), (HEAD, *_left_alone(raw)), cache_advice(raw))


def parse_mxfp4(raw: Mapping[str, Any]) -> Quantization:
    """``quant_method: mxfp4`` of GPT-OSS: the experts alone, those of a layer in one tensor."""
    return Quantization((Group((r"re:.*\.experts(\.|$)",), Mxfp4(blocks=True)),), _left_alone(raw))


def parse_modelopt(raw: Mapping[str, Any]) -> Quantization:
    """``quant_method: modelopt``. Raises ``ConfigError`` naming the field."""
    cache = cache_advice(raw)
    scheme = MODELOPT[expect(raw, "quant_algo", tuple(MODELOPT), NAME)]
    ignored = patterns(raw.get("ignore") or raw.get("exclude_modules") or [], f"{NAME}.ignore")
    return Quantization((Group(("Linear",), scheme),), tuple(map(_glob, ignored)), cache)


MODELOPT: Final[Mapping[str, Scheme]] = {
    "NVFP4": Nvfp4(divides=False, beside=(INPUT_SCALE,)),
    "FP8": Fp8Channel(whole=True, beside=(INPUT_SCALE,)),
    "FP8_PER_CHANNEL_PER_TOKEN": Fp8Channel(),
    "FP8_PB_WO": Fp8Block(suffix=".weight_scale"),
}


def _glob(pattern: str) -> str:
    return pattern if pattern.startswith("re:") else f"re:{fnmatch.translate(pattern).removesuffix(_END)}{_BOUND}"


def _left_alone(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Patterns of the beginning of a name up to a dot, or its end."""
    field = "ignored_layers" if raw.get("ignored_layers") else "modules_to_not_convert"
    names = patterns(raw.get(field) or [], f"{NAME}.{field}")
    starts = tuple(f"re:(?:{name}){_BOUND}" for name in names)
    patterns(list(starts), f"{NAME}.{field}")
    return starts + tuple(f"re:.*{re.escape(name)}$" for name in names)
