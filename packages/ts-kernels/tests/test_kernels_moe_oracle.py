"""Expert layers against transformers' GPT-OSS, Qwen3-MoE and MiniMax-M2, implementations by others.

DeepSeek-V3's are in test_kernels_oracle.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import GptOssConfig, MiniMaxM2Config, Qwen3MoeConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.minimax_m2.modeling_minimax_m2 import MiniMaxM2SparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock
from ts_kernels import gemm, moe, override, platform

HIDDEN, INTER, EXPERTS, TOP = 64, 32, 8, 3


@pytest.fixture(params=["reference", "native", "triton"], autouse=True)
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every implementation that runs on a CPU meets the oracle."""
    if request.param == "native":
        request.getfixturevalue("native")
    if request.param == "triton" and not platform.interpreting():
        pytest.skip("Triton does not interpret in this process")
    with override(request.param):
        yield request.param


def random_weights(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 2 * parameter.shape[-1] ** -0.5)
    module.requires_grad_(False)


def common(**more: object) -> dict[str, object]:
    return {"hidden_size": HIDDEN, "num_experts_per_tok": TOP, "experts_implementation": "eager", **more}


def tokens() -> Tensor:
    return torch.randn(1, 9, HIDDEN)


@pytest.mark.parametrize("limit", [7.0, 0.5])
def test_gpt_oss(limit: float) -> None:
    c = GptOssConfig(**common(intermediate_size=INTER, num_local_experts=EXPERTS, swiglu_limit=limit))
    module = GptOssMLP(c)
    random_weights(module)
    x = tokens()
    want, _ = module(x)
    router, theirs = module.router, module.experts
    logits = gemm.linear(x[0], router.weight) + router.bias
    weights, ids = moe.route_softmax(logits, TOP, normalize=True)
    layer = moe.prepare_experts(
        theirs.gate_up_proj.transpose(1, 2).contiguous(),
        theirs.down_proj.transpose(1, 2).contiguous(),
        gate_up_bias=theirs.gate_up_proj_bias,
        down_bias=theirs.down_proj_bias,
        activation=moe.Gated("swiglu_clamped", 1.702, limit),
        interleaved=True,
    )
    torch.testing.assert_close(moe.experts(x[0], weights, ids, layer), want[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_qwen3_moe(normalize: bool) -> None:
    module = Qwen3MoeSparseMoeBlock(
        Qwen3MoeConfig(**common(moe_intermediate_size=INTER, num_experts=EXPERTS, norm_topk_prob=normalize))
    )
    random_weights(module)
    x = tokens()
    weights, ids = moe.route_softmax(gemm.linear(x[0], module.gate.weight), TOP, normalize=normalize)
    layer = moe.prepare_experts(module.experts.gate_up_proj, module.experts.down_proj)
    torch.testing.assert_close(moe.experts(x[0], weights, ids, layer), module(x)[0], atol=2e-5, rtol=1e-4)


def test_minimax_m2() -> None:
    module = MiniMaxM2SparseMoeBlock(MiniMaxM2Config(**common(intermediate_size=INTER, num_local_experts=EXPERTS)))
    random_weights(module)
    module.e_score_correction_bias = torch.randn(EXPERTS) * 0.2
    module.eval()
    x = tokens()
    logits = gemm.linear(x[0], module.gate.weight)
    weights, ids = moe.route_sigmoid(logits, module.e_score_correction_bias, TOP, 1, 1, 1.0, True)
    layer = moe.prepare_experts(module.experts.gate_up_proj, module.experts.down_proj)
    torch.testing.assert_close(moe.experts(x[0], weights, ids, layer), module(x)[0], atol=2e-5, rtol=1e-4)
