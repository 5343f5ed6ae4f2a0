"""Native CPU kernels: raw pointers in, results written through raw pointers.

Conventions of every function and method
    * `x`, `out`, ... are addresses (`tensor.data_ptr()`); 0 means absent where the text says so.
    * Strides are counted in elements; the last dimension is contiguous. Where no stride is asked, rows are dense.
    * `dtype` is `FP32` (0) or `BF16` (1) and holds for every activation of the call, outputs included.
    * Accumulation is in fp32. One output element is summed in the same order whatever the number of rows and
      threads, so a row's result does not depend on its batch (with "amx", bf16 rows excepted: docs/kernels.md).
    * Sizes are checked: `ValueError` names the argument. Pointers are trusted.
    * Indices that a kernel follows as addresses (slots, pages, positions) are checked: `ContractError`.
    * Calls with much work release the GIL.
"""

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack, final

from torch import Tensor

FP32: int
BF16: int

def set_threads(n: int) -> None:
    """Use `n >= 1` threads, the calling one included; small operations stay on the calling thread."""

def threads() -> int: ...
def set_spin(microseconds: int) -> None:
    """How long an idle worker polls for the next call before it sleeps (default 200; 0 sleeps at once)."""

def set_isa(name: str) -> None:
    """Choose "portable", "avx2", "avx512", "amx" or "auto" (the best that passed its self-check here).

    Weights packed before the call stay valid. ValueError where the machine lacks it. "amx_emulated" runs everywhere:
    the matrix products of "amx" on tiles emulated in plain C++, over portable vectors. Slow; for tests.
    """

def isa() -> str: ...
def features() -> list[str]:
    """What "auto" chooses from on this machine, best last; "amx" only after its start-up self-check passed."""

def amx_refusal() -> str:
    """Why "amx" is not among the features; empty where it is."""

def check_isa(name: str) -> bool:
    """The start-up self-check: whether bf16 and INT4 products of whole numbers equal the portable ones bit for bit."""

def rms_norm(
    x: int, x_stride: int, weight: int, weight_dtype: int, eps: float, out: int, rows: int, dim: int, dtype: int
) -> None:
    """out[rows, dim] = x / sqrt(mean(x^2) + eps) * weight. `out` is dense."""

def add_rms_norm(
    x: int,
    x_stride: int,
    residual: int,
    weight: int,
    weight_dtype: int,
    eps: float,
    out: int,
    rows: int,
    dim: int,
    dtype: int,
) -> None:
    """residual[rows, dim] += x, in place; out = rms_norm(residual). `residual` and `out` are dense."""

def layer_norm(
    x: int,
    x_stride: int,
    weight: int,
    bias: int,
    weight_dtype: int,
    eps: float,
    out: int,
    rows: int,
    dim: int,
    dtype: int,
) -> None:
    """out[rows, dim] = (x - mean) / sqrt(variance + eps) * weight + bias; weight and bias are of `weight_dtype`."""

def rotate(
    x: int,
    token_stride: int,
    head_stride: int,
    tokens: int,
    heads: int,
    first: int,
    rope_dim: int,
    halves: bool,
    cos_sin: int,
    table_dim: int,
    max_positions: int,
    positions: int,
    axes: int,
    pair_axis: int,
    pair_column: int,
    dtype: int,
) -> None:
    """Rotate columns [first, first + rope_dim) of each head in place: pairs (2i, 2i+1), or (i, i + rope_dim/2).

    cos_sin: fp32 [max_positions, table_dim], cosines then sines. positions: int64 [axes, tokens]. pair_axis and
    pair_column: int32 [rope_dim / 2], the axis and the table's column of each pair; both 0: axis 0, column i.
    """

def copy_pages(
    source: int,
    source_pages: int,
    target: int,
    target_pages: int,
    pages_from: int,
    pages_to: int,
    count: int,
    bytes: int,
) -> None:
    """Page pages_to[i] of the target = page pages_from[i] of the source, int64 [count]; a page has `bytes` bytes."""

def apply_interleaved(
    x: int,
    token_stride: int,
    head_stride: int,
    tokens: int,
    heads: int,
    head_dim: int,
    rope_dim: int,
    cos_sin: int,
    max_positions: int,
    positions: int,
    dtype: int,
) -> None:
    """Rotate the last `rope_dim` columns of each head in place, as pairs (2i, 2i+1).

    cos_sin: fp32 [max_positions, rope_dim], rope_dim/2 cosines then rope_dim/2 sines. positions: int64 [tokens].
    """

def silu_mul(gate_up: int, stride: int, out: int, rows: int, inter: int, dtype: int) -> None:
    """out[rows, inter] = silu(gate_up[:, :inter]) * gate_up[:, inter:2*inter]."""

def gated(
    gate_up: int,
    stride: int,
    out: int,
    rows: int,
    inter: int,
    dtype: int,
    gate: int,
    alpha: float,
    limit: float,
    interleaved: bool,
) -> None:
    """out[rows, inter] = act(gate) * up; `gate` numbers activation.gates, `alpha` and `limit` are swiglu_clamped's."""

def gelu(x: int, stride: int, out: int, rows: int, dim: int, dtype: int, tanh: bool) -> None:
    """out[rows, dim] = x * Phi(x), by the formula with tanh if asked."""

def route_sigmoid(
    logits: int,
    stride: int,
    rows: int,
    experts: int,
    bias: int,
    top_k: int,
    n_group: int,
    topk_group: int,
    scale: float,
    normalize: bool,
    weights: int,
    ids: int,
) -> None:
    """DeepSeek-V3 routing: s = sigmoid(logits); choose by s + bias within the best `topk_group` groups (a group's
    score is the sum of its two best); weights are the unbiased s of the chosen, normalised if asked, times `scale`.

    logits, bias fp32; weights fp32 [rows, top_k] and ids int32 [rows, top_k], best first, ties to the lower index.
    """

def route_softmax(
    logits: int,
    stride: int,
    rows: int,
    experts: int,
    top_k: int,
    scale: float,
    normalize: bool,
    weights: int,
    ids: int,
) -> None:
    """The `top_k` largest logits, best first, ties to the lower index; weights are their softmax over all experts, or
    over the chosen ones if `normalize`, times `scale`. logits, weights fp32, ids int32, [rows, top_k] the last two."""

def linear(
    x: int,
    x_stride: int,
    rows: int,
    dtype: int,
    weight: int,
    weight_stride: int,
    weight_dtype: int,
    n: int,
    k: int,
    out: int,
    out_stride: int,
    out_dtype: int,
) -> None:
    """out = x @ weight.T with a plain row-major weight[n, k]; packs as it goes (PackedLinear for one used twice)."""

def read_all(data: int, bytes: int) -> int:
    """Read memory from end to end with all threads (a probe of bandwidth); gives a checksum."""

def quantize_fp8(x: int, x_stride: int, rows: int, dim: int, dtype: int, group: int, values: int, scales: int) -> None:
    """Rows to e4m3[rows, dim] with a scale for each `group` columns, fp32[rows, ceil(dim / group)]."""

def gather_rows(
    table: int,
    table_dtype: int,
    table_rows: int,
    dim: int,
    ids: int,
    ids_are_int64: bool,
    rows: int,
    out: int,
    dtype: int,
) -> None:
    """out[i] = table[ids[i]] (embedding); ContractError for an id outside of the table."""

def write_latent(
    kv_a: int,
    kv_stride: int,
    tokens: int,
    latent: int,
    rope_dim: int,
    norm_weight: int,
    norm_dtype: int,
    eps: float,
    cos_sin: int,
    max_positions: int,
    positions: int,
    slots: int,
    cache: int,
    cache_dtype: int,
    cache_slots: int,
    dtype: int,
    cache_scale: float,
) -> None:
    """cache[slots[t]] = rms_norm(kv_a[t, :latent]) | rope(kv_a[t, latent:]).

    cache: [cache_slots = pages * page_size, latent + rope_dim]. slots, positions: int64 [tokens]; negative slots: skip.
    `cache_dtype` may be E4M3 (2): then a number is stored divided by `cache_scale`, cut off at 448.
    """

def decode_absorbed(
    q_latent: int,
    q_stride: int,
    q_rope: int,
    q_rope_stride: int,
    batch: int,
    heads: int,
    latent: int,
    rope_dim: int,
    dtype: int,
    cache: int,
    cache_dtype: int,
    pages: int,
    page_size: int,
    block_tables: int,
    block_table_stride: int,
    block_table_width: int,
    seq_lens: int,
    scale: float,
    out: int,
    q_len: int,
    cache_scale: float,
    lse: int,
) -> None:
    """`KvB.decode` from absorbed queries [tokens, heads, latent] and [tokens, heads, rope_dim] to out[tokens, heads,
    latent]; heads side by side, strides between tokens."""

def write_kv(
    k: int,
    k_stride: int,
    k_width: int,
    v: int,
    v_stride: int,
    v_width: int,
    tokens: int,
    dtype: int,
    slots: int,
    k_cache: int,
    k_page: int,
    k_scale: float,
    v_cache: int,
    v_page: int,
    v_scale: float,
    pages: int,
    page_size: int,
    cache_dtype: int,
) -> None:
    """cache[slots[t]] = new[t] / scale, for keys and for values; widths are of all heads of a token.

    Caches [pages, page_size, width], `k_page` and `v_page` elements from page to page. Negative slots: skip.
    """

def attend_paged(
    q: int,
    q_stride: int,
    tokens: int,
    rows: int,
    cu_q: int,
    dtype: int,
    k_cache: int,
    v_cache: int,
    cache_dtype: int,
    k_page: int,
    v_page: int,
    pages: int,
    page_size: int,
    heads: int,
    kv_heads: int,
    d: int,
    v: int,
    block_tables: int,
    block_table_stride: int,
    block_table_width: int,
    seq_lens: int,
    sinks: int,
    scale: float,
    soft_cap: float,
    v_scale: float,
    window: int,
    out: int,
    lse: int,
) -> None:
    """Attention of q [tokens, heads, d] over caches [pages, page_size, kv_heads, d or v], a page dense.

    A row's queries are the last of its seq_lens positions: q[cu_q[r]:cu_q[r+1]], or tokens / rows (at most 8) each
    where cu_q is 0. out [tokens, heads * v] in q's dtype, lse fp32 [tokens, heads]. Rows of up to 8 queries are split
    over their keys. sinks fp32 [heads] or 0; soft_cap 0: none; window 0: every key. ContractError for a page outside of
    the cache.
    """

def merge(
    outs: int,
    part_stride: int,
    token_stride: int,
    type: int,
    lses: int,
    lse_part_stride: int,
    lse_token_stride: int,
    parts: int,
    tokens: int,
    heads: int,
    v: int,
    out: int,
    lse: int,
) -> None:
    """Attention over disjoint keys, from outs [parts, tokens, heads * v] and fp32 lses [parts, tokens, heads].

    type: FP32, BF16 or 2, fp16. A part whose lse is -inf counts for nothing whatever it holds. out [tokens, heads * v]
    of that type, lse fp32 [tokens, heads].
    """

def permute(
    ids: int, count: int, experts: int, block: int, capacity: int, pairs: int, offsets: int, blocks: int
) -> None:
    """Sort `count` pairs by their expert, each expert's share padded to whole blocks; stable.

    int32: ids [count] (those outside of [0, experts) are left out), pairs [capacity] (`count` where there is none),
    offsets [experts + 1], blocks [capacity / block] (-1 past the end). capacity is
    (count + min(count, experts) * (block - 1)) / block * block.
    """

def grouped_linear(
    x: int,
    x_stride: int,
    tokens: int,
    dtype: int,
    ids: int,
    top_k: int,
    pairs: int,
    starts: int,
    sources: list[tuple[int, int, int]],
    format: int,
    n: int,
    k: int,
    group: int,
    scale_dtype: int,
    row_bytes: int,
    flip: int,
    out: int,
) -> bool:
    """out[t, j] = x[t] @ weight[ids[t, j]].T, zero where an id is outside of the experts; False for FP8 codes of NaN.

    ids int32 [tokens, top_k]; pairs and starts as `permute` with blocks of 1 gives them. sources: of each expert
    (codes, scales, zeros), 0 where it has no pair; format (0 fp32, 1 bf16), codes, scales, zeros, group and flip as in
    `PackedLinear.from_quantized`, rows of codes `row_bytes` apart. out [tokens, top_k, n].
    """

def combine(
    values: int,
    dtype: int,
    tokens: int,
    top_k: int,
    dim: int,
    experts: int,
    weights: int,
    ids: int,
    base: int,
    base_stride: int,
    out: int,
) -> None:
    """out[t] = base[t] + sum of weights[t, j] * values[t, j], in order of j, of the ids within [0, experts).

    values [tokens, top_k, dim] dense, weights fp32 and ids int32 [tokens, top_k], base 0: none.
    """

def sample(
    logits: int,
    stride: int,
    rows: int,
    vocab: int,
    temperature: int,
    top_k: int,
    top_p: int,
    seeds: int,
    positions: int,
    min_p: int,
    out: int,
) -> None:
    """out int32 [rows]: one token a row. fp32 logits, temperature, top_p, min_p (0: off); int32 top_k; int64 seeds,
    positions.

    temperature <= 0: argmax, lowest index on ties. Otherwise p = softmax(logits / temperature), and in order
      1. top_k (off where <= 0 or >= vocab): keep the k most probable (ties: the lower index is better);
      2. top_p (off where >= 1): of those, renormalised, keep the shortest best-first prefix whose mass is >= top_p
         (one at least);
      3. min_p: keep what has at least min_p times the weight of the most probable;
      4. draw by inverse CDF over the kept tokens in ascending index order: the first whose cumulative mass > u * total,
         u = (mix(mix(seed) + position) >> 11) * 2^-53, all arithmetic modulo 2^64, where mix is splitmix64:
             z += 0x9E3779B97F4A7C15; z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9
             z = (z ^ z >> 27) * 0x94D049BB133111EB; return z ^ z >> 31
    """

def argmax(logits: int, dtype: int, stride: int, rows: int, vocab: int, out: int) -> None:
    """out int32 [rows]: the lowest index of the highest logit, -1 where nothing is above minus infinity."""

def verify(
    logits: int,
    rows: int,
    places: int,
    vocab: int,
    drafts: int,
    counts: int,
    draft_probs: int,
    temperature: int,
    top_k: int,
    top_p: int,
    seeds: int,
    positions: int,
    min_p: int,
    accepted: int,
    bonus: int,
) -> None:
    """Rejection sampling of the first counts[r] of `places - 1` drafts: accepted, bonus int32 [rows].

    logits fp32 [rows, places, vocab]; drafts int32 [rows, places - 1]; draft_probs fp32 [rows, places - 1, vocab], 0
    for greedy drafts. A draft falls where u * q >= p, u of the seed mix(seed + 0xD1B54A32D192ED03); its replacement is
    drawn from max(p - q, 0) at a u of the seed mix(seed + 2 * 0xD1B54A32D192ED03); a bonus after all is `sample`'s.
    """

def count_tokens(
    counts: int,
    slots: int,
    vocab: int,
    slot_ids: int,
    tokens: int,
    token_stride: int,
    rows: int,
    tokens_per_row: int,
    prompt: bool,
) -> None:
    """counts int16 [slots, vocab] in place: the sign bit (prompt), or one more in the other 15; negative: skip."""

def apply_penalties(
    logits: int,
    stride: int,
    rows: int,
    vocab: int,
    counts: int,
    slots: int,
    slot_ids: int,
    repetition: int,
    presence: int,
    frequency: int,
) -> None:
    """fp32 logits in place; slot_ids int64 [rows], negative: skip."""

def apply_bias(
    logits: int, stride: int, batch: int, vocab: int, entries: int, rows: int, tokens: int, values: int
) -> None:
    """logits[rows[i], tokens[i]] += values[i]; rows, tokens int32 [entries], a negative row: skip."""

def apply_mask(logits: int, stride: int, rows: int, vocab: int, mask: int, lines: int, line_ids: int) -> None:
    """Minus infinity where the bit is 0: mask int32 [lines, ceil(vocab / 32)], line_ids int64 [rows] or 0."""

def logprobs(
    logits: int,
    stride: int,
    rows: int,
    vocab: int,
    tokens: int,
    n: int,
    chosen: int,
    ranks: int,
    top_ids: int,
    top_values: int,
) -> None:
    """Log-softmax at tokens int32 [rows], their ranks, and the best n with their values."""

def causal_conv(
    x: int,
    x_stride: int,
    tokens: int,
    dtype: int,
    weight: int,
    weight_dtype: int,
    states: int,
    state_count: int,
    slots: int,
    cu_q: int,
    fresh: int,
    rows: int,
    channels: int,
    width: int,
    out: int,
) -> None:
    """Depthwise convolution with SiLU; weight [channels, width].

    states fp32 [state_count, width - 1, channels], in place.
    slots int64 [rows], negative: zeros. cu_q int32 [rows + 1], 0: one token a row. fresh bool [rows], 0: none.
    """

def gated_delta(
    q: int,
    q_stride: int,
    k: int,
    k_stride: int,
    v: int,
    v_stride: int,
    tokens: int,
    dtype: int,
    a: int,
    a_stride: int,
    b: int,
    b_stride: int,
    gate_dtype: int,
    a_log: int,
    dt_bias: int,
    states: int,
    state_count: int,
    slots: int,
    cu_q: int,
    fresh: int,
    rows: int,
    key_heads: int,
    value_heads: int,
    key_dim: int,
    value_dim: int,
    scale: float,
    out: int,
) -> None:
    """The gated delta rule, token by token; states fp32 [state_count, value_heads, key_dim, value_dim] in place.

    Strides are of tokens, a token's heads are dense. slots, cu_q, fresh as in `causal_conv`.
    """

def gated_rms_norm(
    x: int,
    x_stride: int,
    z: int,
    z_stride: int,
    weight: int,
    weight_dtype: int,
    eps: float,
    out: int,
    rows: int,
    dim: int,
    dtype: int,
) -> None:
    """out[rows, dim] = rms_norm(x) * weight * silu(z). `out` is dense."""

def copy_states(
    source: int, source_slots: int, target: int, target_slots: int, from_: int, to: int, count: int, bytes: int
) -> None:
    """target[to[i]] = source[from[i]], `bytes` each; negative slots: skip."""

# Direct calls take and give tensors: they check them, allocate the result and compute, in one call. Each gives
# NotImplemented where an argument is not on the CPU or not of the rank, sizes, dtype and layout that the kernel wants.

def direct_merge(outs: Tensor, lses: Tensor) -> Any: ...
def direct_permute(ids: Tensor, experts: int, block: int) -> Any: ...
def direct_combine(values: Tensor, weights: Tensor, ids: Tensor, experts: int, base: Tensor | None) -> Any: ...
def readable(*arguments: object) -> bool:
    """Whether every tensor among them surely has its numbers in memory as they are, on whatever device.

    False where that cannot be told (a tensor on meta, a torch without DLPack's exchange table)."""

def direct_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Any: ...
def direct_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Any: ...
def direct_apply_interleaved(x: Tensor, cos_sin: Tensor, positions: Tensor) -> Any: ...
def direct_apply_halves(x: Tensor, cos_sin: Tensor, positions: Tensor) -> Any: ...
def direct_attend_few(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    sinks: Tensor | None,
    scale: float,
    window: int | None,
    k_scale: float,
    v_scale: float,
) -> Any: ...
def direct_write_kv(
    k: Tensor, v: Tensor, slots: Tensor, k_cache: Tensor, v_cache: Tensor, k_scale: float, v_scale: float
) -> Any: ...
def direct_silu_mul(gate_up: Tensor) -> Any: ...
def direct_route_sigmoid(
    logits: Tensor, bias: Tensor, top_k: int, n_group: int, topk_group: int, scale: float, normalize: bool
) -> Any: ...
def direct_route_softmax(logits: Tensor, top_k: int, scale: float, normalize: bool) -> Any: ...
def direct_causal_conv_step(x: Tensor, weight: Tensor, states: Tensor, slots: Tensor) -> Any: ...
def direct_gated_delta_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    a_log: Tensor,
    dt_bias: Tensor,
    states: Tensor,
    slots: Tensor,
    scale: float | None,
) -> Any: ...
def direct_gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, eps: float) -> Any: ...
def direct_write_latent(
    kv_a: Tensor,
    norm_weight: Tensor,
    eps: float,
    cos_sin: Tensor,
    positions: Tensor,
    slots: Tensor,
    cache: Tensor,
) -> Any: ...
def direct_decode_absorbed(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    block_tables: Tensor,
    seq_lens: Tensor,
    scale: float,
    q_len: int,
) -> Any: ...
def direct_sample(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, seeds: Tensor, positions: Tensor
) -> Any: ...

class _QuantizedRows(TypedDict):
    """Row-major codes of `format` (2 INT4, 3 INT4 with zero points, 4 INT8, 5 e4m3, 6 e2m1), whole bytes a row and
    `code_stride` bytes apart, of which each four combined with `flip` (exclusive or) are in two's complement.

    A row of scales (`scale_type` 0 fp32, 1 bf16, 2 fp16, 3 e4m3, 4 powers of two as e8m0; `scale_stride` elements
    apart) holds ceil(k / group), for `scale_rows` rows of codes. `row_scales` fp32 [n] multiply them (0: none).
    `zeros` int32 [ceil(n / 8), ceil(k / group)] are zero points, a nibble each, eight rows to a word (0: none)."""

    format: int
    n: int
    k: int
    in_turn: bool
    codes: int
    code_stride: int
    flip: int
    scales: int
    scale_type: int
    scale_stride: int
    scale_rows: int
    group: int
    row_scales: int
    row_scale_stride: int
    zeros: int
    zero_stride: int

@final
class Run:
    """n rows, from `first` on, of a weight of `total`, which `pack_runs` packs into `into` (None: memory for them all).

    Runs begin and end at multiples of 16, and may come in any order. The memory of the rows must last until then."""

    into: PackedLinear
    @staticmethod
    def of_rows(
        *,
        weight: int,
        weight_stride: int,
        weight_dtype: int,
        n: int,
        k: int,
        in_turn: bool,
        first: int,
        total: int,
        into: PackedLinear | None,
    ) -> Run:
        """As PackedLinear's own arguments."""
    @staticmethod
    def of_quantized(*, first: int, total: int, into: PackedLinear | None, **rows: Unpack[_QuantizedRows]) -> Run: ...

def pack_runs(runs: list[Run]) -> None:
    """Pack them on the calling thread; several threads may at once, each its own."""

@final
class PackedLinear:
    """A linear layer's weight[n, k], copied into the kernels' layout (bf16 stays bf16, fp32 stays fp32)."""

    def __init__(
        self, weight: int, weight_stride: int, weight_dtype: int, n: int, k: int, in_turn: bool = False
    ) -> None:
        """`in_turn`: rows of two matrices lie in turn; those of the first are packed first."""
    @staticmethod
    def from_quantized(**rows: Unpack[_QuantizedRows]) -> PackedLinear: ...
    @property
    def has_nan(self) -> bool:
        """Whether FP8 codes of NaN were among those packed; the kernels take them for numbers."""
    @property
    def has_infinite_scale(self) -> bool:
        """Whether a scale that is not finite was among those packed."""
    def set_bias(self, bias: int) -> None:
        """Add bias[n], fp32, to every product; copied."""
    def unpack(self, out: int, out_dtype: int) -> None:
        """out[n, k] = the weight as fp32 or rounded to bf16, without the bias."""
    @property
    def n(self) -> int: ...
    @property
    def k(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def direct(self, x: Tensor, out_dtype: int) -> Any:
        """As `run`; `out_dtype` -1 is that of x."""
    def run(self, x: int, x_stride: int, rows: int, dtype: int, out: int, out_stride: int, out_dtype: int) -> None:
        """out[rows, n] = x[rows, k] @ weight.T; `out_dtype` may differ from `dtype` (fp32 logits from bf16 rows)."""

@final
class PackedMlp:
    """A gated MLP: gate_up[2 * inter, dim] and down[dim, inter] as one call. Keeps both weights alive."""

    def __init__(self, gate_up: PackedLinear, down: PackedLinear) -> None: ...
    def direct(self, x: Tensor) -> Any: ...
    def run(self, x: int, x_stride: int, rows: int, dtype: int, out: int) -> None:
        """out[rows, dim] = (silu(x @ gate.T) * (x @ up.T)) @ down.T."""

@final
class PackedExperts:
    """Routed experts: gate_up[experts, 2 * inter, dim] (gate rows, then up rows) and down[experts, dim, inter]."""

    def __init__(self, gate_up: Sequence[PackedLinear], down: Sequence[PackedLinear]) -> None:
        """One of each an expert, all of the first one's sizes; shares them."""
    @property
    def nbytes(self) -> int: ...
    def configure(self, gate: int, alpha: float, limit: float, gate_up_bias: int, down_bias: int) -> None:
        """Set the activation (as in `gated`), and copy fp32 biases [E, 2 * inter] and [E, dim] (0: none)."""
    def direct(self, x: Tensor, weights: Tensor, ids: Tensor, shared: PackedMlp | None) -> Any: ...
    def run(
        self,
        x: int,
        x_stride: int,
        rows: int,
        dtype: int,
        weights: int,
        ids: int,
        top_k: int,
        shared: PackedMlp | None,
        out: int,
    ) -> None:
        """out[rows, dim] = sum_j weights[:, j] * expert[ids[:, j]](x), plus shared(x) where given.

        weights fp32, ids int32, both [rows, top_k]. An id outside of [0, experts) is skipped (another rank's).
        """

@final
class KvB:
    """MLA's kv_b projection[heads * (nope + v), latent] in the forms that both attention kernels want."""

    def __init__(self, weight_dtype: int, heads: int, nope: int, v: int, latent: int) -> None:
        """Memory for it, which `put` fills."""
    def put(self, weight: int, weight_stride: int, weight_dtype: int, first: int, heads: int) -> None:
        """Pack the rows of `heads` heads from `first` on: in any order, and by several threads at once, each of which
        packs its own without the pool."""
    @property
    def nbytes(self) -> int: ...
    def direct_decode(
        self, q: Tensor, cache: Tensor, block_tables: Tensor, seq_lens: Tensor, scale: float, q_len: int
    ) -> Any: ...
    def direct_prefill(
        self, q: Tensor, cache: Tensor, cu_q: Tensor, block_tables: Tensor, seq_lens: Tensor, scale: float
    ) -> Any: ...
    def decode(
        self,
        q: int,
        q_stride: int,
        batch: int,
        dtype: int,
        cache: int,
        cache_dtype: int,
        pages: int,
        page_size: int,
        rope_dim: int,
        block_tables: int,
        block_table_stride: int,
        block_table_width: int,
        seq_lens: int,
        scale: float,
        out: int,
        q_len: int,
        cache_scale: float,
        lse: int,
    ) -> None:
        """`q_len` queries a row, absorbed form, split over the keys: out[batch * q_len, heads * v].

        q [batch * q_len, heads, nope + rope_dim], `q_stride` between tokens. cache [pages, page_size, latent +
        rope_dim]; `cache_dtype` may be E4M3 (2), numbers being what is stored times `cache_scale`. block_tables int32
        [batch, block_table_width], seq_lens int32 [batch] count the queries' own keys. A row with seq_len 0 is
        padding: its output is zero. lse: fp32 [batch * q_len, heads] or 0. ContractError for a page outside of the
        cache.
        """
    def prefill(
        self,
        q: int,
        q_stride: int,
        rows: int,
        cu_q: int,
        dtype: int,
        cache: int,
        cache_dtype: int,
        pages: int,
        page_size: int,
        rope_dim: int,
        block_tables: int,
        block_table_stride: int,
        block_table_width: int,
        seq_lens: int,
        scale: float,
        out: int,
        cache_scale: float,
    ) -> None:
        """Causal attention of several rows: q[cu_q[r]:cu_q[r+1]] are row r's last positions of seq_lens[r].

        cu_q int32 [rows + 1]. q [tokens, heads, nope + rope_dim]; out[tokens, heads * v]. All keys are read from the
        cache. Plain form (keys and values expanded tile by tile); rows of few queries take the absorbed form, which is
        cheaper there.
        """
