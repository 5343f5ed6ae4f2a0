"""Codes of quantized weights to numbers, in operations that every target of Triton has."""

import triton
import triton.language as tl


@triton.jit
def nibbles(words, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """int32 [ROWS, COLUMNS / 8] to its nibbles 0 to 15, int32 [ROWS, COLUMNS], the lowest bits first."""
    shifts = tl.arange(0, 8) * 4
    return tl.reshape((words[:, :, None] >> shifts[None, None, :]) & 15, (ROWS, COLUMNS))


@triton.jit
def e2m1(code):
    """Codes of 4-bit floats to fp32: by halves, so that it is whole numbers until the end."""
    magnitude = code & 7
    exponent, mantissa = magnitude >> 1, magnitude & 1
    halves = tl.where(exponent == 0, mantissa, (2 + mantissa) << tl.maximum(exponent - 1, 0))
    return tl.where(code >= 8, -halves, halves).to(tl.float32) * 0.5


@triton.jit
def e4m3(byte):
    """Codes of e4m3 (uint8) to fp32. Not every target converts this type; its bits stand 2^120 too low in a float."""
    bits = byte.to(tl.int32)
    return (((bits & 0x80) << 24) | ((bits & 0x7F) << 20)).to(tl.float32, bitcast=True) * 1.329227995784916e36


@triton.jit
def e8m0(byte):
    """Powers of two 2^(byte - 127) as fp32; the lowest is subnormal, 255 is NaN."""
    bits = byte.to(tl.int32)
    power = tl.where(bits == 0, 0x400000, bits << 23)
    return tl.where(bits == 255, 0x7FC00000, power).to(tl.float32, bitcast=True)
