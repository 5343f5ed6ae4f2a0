"""Codes of weights as numbers, in registers, with no instruction of one vendor.

Every trick puts the code's bits into a float's and corrects by an exact subtraction or a power of two. COMPUTE is what
the product multiplies: bf16, fp16, or fp32 (which the interpreter needs: it cannot multiply bf16).
"""

# ruff: noqa: SIM300 (COMPUTE is the argument)
import triton
import triton.language as tl


@triton.jit
def int4_of(code, zero, COMPUTE: tl.constexpr):
    """Codes 0..15 minus ``zero``: the code becomes the last bits of 128 (bf16) or 1024 (fp16), one unit each."""
    if COMPUTE == tl.bfloat16:
        value = (code.to(tl.int16) | 0x4300).to(tl.bfloat16, bitcast=True) - (zero + 128.0).to(tl.bfloat16)
    elif COMPUTE == tl.float16:
        value = (code.to(tl.int16) | 0x6400).to(tl.float16, bitcast=True) - (zero + 1024.0).to(tl.float16)
    else:
        value = code.to(tl.float32) - zero
    return value


@triton.jit
def e2m1_of(code, COMPUTE: tl.constexpr):
    """Four-bit floats: sign, exponent and mantissa in place, times the power of two between the exponents' biases."""
    wide = code.to(tl.int16)
    if COMPUTE == tl.bfloat16:
        bits = ((wide & 8) << 12) | ((wide & 7) << 6)
        value = bits.to(tl.bfloat16, bitcast=True) * 8.507059173023462e37  # 2^126
    else:
        bits = ((wide & 8) << 12) | ((wide & 7) << 9)
        value = (bits.to(tl.float16, bitcast=True) * 16384.0).to(COMPUTE)
    return value


@triton.jit
def e4m3_of(code, COMPUTE: tl.constexpr):
    """Bytes of e4m3, likewise; its NaN becomes 480."""
    wide = code.to(tl.int16)
    if COMPUTE == tl.bfloat16:
        bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 4)
        value = bits.to(tl.bfloat16, bitcast=True) * 1.329227995784916e36  # 2^120
    else:
        bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 7)
        value = (bits.to(tl.float16, bitcast=True) * 256.0).to(COMPUTE)
    return value


@triton.jit
def int8_of(code):
    """Bytes of two's complement to fp32: less the sign's offset they become the last bits of 2^23, one unit each."""
    return (((code.to(tl.int32) & 0xFF) ^ 0x80) | 0x4B000000).to(tl.float32, bitcast=True) - 8388736.0


@triton.jit
def e8m0_of(code, COMPUTE: tl.constexpr):
    """Powers of two 2^(code - 127); 2^-127 becomes 0."""
    if COMPUTE == tl.bfloat16:
        value = (code.to(tl.int16) << 7).to(tl.bfloat16, bitcast=True)
    else:
        value = (code.to(tl.int32) << 23).to(tl.float32, bitcast=True).to(COMPUTE)
    return value
