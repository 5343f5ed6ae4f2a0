"""Rotary positions in plain torch (arXiv 2104.09864); frequencies plain, of YaRN (arXiv 2309.00071), of Llama 3."""

import math

import torch
from torch import Tensor

from .layout import Layout


def _correction_dim(rotations: float, dim: int, theta: float, original_max_positions: int) -> float:
    """The (fractional) pair index whose wavelength makes ``rotations`` turns over the original context."""
    return dim * math.log(original_max_positions / (rotations * 2 * math.pi)) / (2 * math.log(theta))


def _magnitude(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def magnitude(factor: float, mscale: float, mscale_all_dim: float) -> float:
    """What YaRN's cosines and sines are multiplied by; infinite where the second magnitude is 0."""
    if not (mscale and mscale_all_dim):
        return _magnitude(factor, 1.0)
    below = _magnitude(factor, mscale_all_dim)
    return _magnitude(factor, mscale) / below if below else math.inf


def yarn_frequencies(
    dim: int, theta: float, factor: float, original_max_positions: int, beta_fast: float, beta_slow: float
) -> Tensor:
    """Angle per position of each pair, fp32 [dim / 2]: interpolated where slow, kept where fast, a ramp between."""
    wavelengths = theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    low = max(math.floor(_correction_dim(beta_fast, dim, theta, original_max_positions)), 0)
    high = float(min(math.ceil(_correction_dim(beta_slow, dim, theta, original_max_positions)), dim - 1))
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    keep = 1 - ramp
    return 1.0 / (factor * wavelengths) * (1 - keep) + 1.0 / wavelengths * keep


def yarn_cos_sin(
    dim: int,
    max_positions: int,
    theta: float,
    factor: float,
    original_max_positions: int,
    beta_fast: float,
    beta_slow: float,
    mscale: float,
    mscale_all_dim: float,
) -> Tensor:
    """Cosines then sines of every position and pair, scaled by the ratio of YaRN's two magnitudes."""
    angles = torch.outer(
        torch.arange(max_positions, dtype=torch.float32),
        yarn_frequencies(dim, theta, factor, original_max_positions, beta_fast, beta_slow),
    )
    scale = magnitude(factor, mscale, mscale_all_dim)
    return torch.cat((angles.cos() * scale, angles.sin() * scale), dim=-1)


def table(frequencies: Tensor, max_positions: int) -> Tensor:
    """Cosines then sines of every position and pair."""
    angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def plain_frequencies(dim: int, theta: float) -> Tensor:
    """Angle per position of each pair, fp32 [dim / 2]."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def llama3_frequencies(
    dim: int,
    theta: float,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_positions: int,
) -> Tensor:
    """Plain where a pair turns often within the original context, divided by ``factor`` where seldom, mixed between."""
    plain = plain_frequencies(dim, theta)
    turns = original_max_positions * plain / (2 * math.pi)
    keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return plain * keep + plain / factor * (1 - keep)


def rotate(x: Tensor, cos_sin: Tensor, positions: Tensor) -> Tensor:
    """x [T, ..., R] turned pair by pair (2i, 2i+1), in fp32; gives a new fp32 tensor."""
    half = cos_sin.shape[1] // 2
    shape = (x.shape[0], *(1 for _ in x.shape[1:-1]), half)
    cos, sin = (part.reshape(shape) for part in torch.split(cos_sin[positions], half, dim=-1))
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def apply_interleaved(x: Tensor, cos_sin: Tensor, positions: Tensor) -> Tensor:
    """Rotate the last R columns of each head in place."""
    part = x[..., x.shape[-1] - cos_sin.shape[1] :]
    part.copy_(rotate(part, cos_sin, positions))
    return x


def turn(x: Tensor, cos_sin: Tensor, positions: Tensor, layout: Layout) -> Tensor:
    """Rotate the layout's columns of each head in place; positions [axes, T]."""
    axis_P, column_P = (part.long() for part in layout.maps(x.device))
    rows_TP, half = positions[axis_P].t(), cos_sin.shape[1] // 2
    cos, sin = cos_sin[rows_TP, column_P][:, None], cos_sin[rows_TP, half + column_P][:, None]
    part = x[..., layout.first : layout.first + 2 * layout.pairs]
    if layout.halves:
        a, b = part[..., : layout.pairs], part[..., layout.pairs :]
    else:
        a, b = part[..., 0::2], part[..., 1::2]
    turned_a, turned_b = a.float() * cos - b.float() * sin, b.float() * cos + a.float() * sin
    a.copy_(turned_a)
    b.copy_(turned_b)
    return x
