"""Linear attention of gated delta nets (arXiv 2412.06464; Qwen 3.5 and 3.6): convolution, delta rule, gated norm.

A request's state lives in slots of two fp32 pools a layer, one for the convolution's last inputs and one for the
recurrent state. A slot can be copied (``copy_states``), so a state at a page's end can be kept for requests that share
the prefix.
"""

from .conv import causal_conv, causal_conv_step
from .delta import gated_delta, gated_delta_step
from .rest import copy_states, gated_rms_norm

__all__ = [
    "causal_conv",
    "causal_conv_step",
    "copy_states",
    "gated_delta",
    "gated_delta_step",
    "gated_rms_norm",
]
