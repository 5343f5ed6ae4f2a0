"""Builds of ts_kernels.ops.sampling.triton: Kimi K2.5's vocabulary of 163,840, cut into 40 chunks."""

from . import Build

_POINTERS = {
    "logits": "*fp32", "best": "*i32", "temperature": "*fp32", "limit": "*fp32", "min_p": "*fp32", "cuts": "*i64",
    "rooms": "*i32", "above": "*fp64", "ties": "*i32", "parts": "*fp32", "prefixes": "*i64", "sums": "*fp64",
    "seeds": "*i64", "positions": "*i64", "out": "*i32", "drafts": "*i32", "counts": "*i32", "draft_probs": "*fp32",
    "accepted": "*i32", "rests": "*fp64", "own": "*i32", "bonus": "*i32",
}  # fmt: skip
_SIZES = {"CHUNK": 4096, "S_PAD": 64}


def aot_builds() -> list[Build]:
    """Every kernel of the family."""
    return [*_search(), *_verify(), *_report(), *_edit()]


def _build(module: str, kernel: str, pointers: str, ints: str, constexprs: dict[str, object], warps: int) -> Build:
    named = [key for key, value in constexprs.items() if key in ("MASS", "PASS", "N") and value is not False]
    label = ".".join([f"{key.lower()}{int(constexprs[key])}" for key in named])  # type: ignore[call-overload]
    signature = {name: _POINTERS[name] for name in pointers.split()} | dict.fromkeys(ints.split(), "i32")
    if kernel == "pass_kernel" and not constexprs["MASS"]:
        signature["limit"] = "*i32"
    return Build(
        name=f"sampling.{kernel.removesuffix('_kernel')}" + (f".{label}" if label else ""),
        kernel=f"sampling.triton.{module}:{kernel}",
        signature=signature,
        constexprs=constexprs,
        num_warps=warps,
        num_stages=1,
    )


def _search() -> list[Build]:
    shared = "logits best temperature limit cuts rooms above ties parts prefixes sums"
    ints, low = "stride V R S places", {"HAS_MIN_P": True}
    return [
        *(
            _build("search", "pass_kernel", shared, ints, {"PASS": turn, "MASS": mass, "TILE": 512, **_SIZES}, 8)
            for turn in (0, 7)
            for mass in (False, True)
        ),
        _build("search", "cut_kernel", shared, ints, {"MASS": True, "S_PAD": 64}, 4),
        _build(
            "search", "masses_kernel", "logits best temperature min_p cuts above ties", "stride V S places",
            {**low, "CHUNK": 4096}, 8,
        ),
        _build(
            "search", "draw_kernel", "logits best temperature min_p seeds positions cuts rooms above ties out",
            "stride V S places", {**low, **_SIZES}, 8,
        ),
    ]  # fmt: skip


def _verify() -> list[Build]:
    state = "cuts rooms above ties accepted"
    drawn = f"logits counts draft_probs best temperature min_p seeds positions {state}"
    low: dict[str, object] = {"HAS_MIN_P": True, **_SIZES}
    return [
        _build("verify", "compare_kernel", "own drafts counts accepted bonus", "K", {"K_PAD": 4}, 1),
        _build("verify", "accept_kernel", f"drafts {drawn}", "V S K", low, 8),
        _build(
            "verify", "rest_kernel", f"logits counts draft_probs best temperature min_p {state} rests", "V S K", low, 8
        ),
        _build("verify", "redraw_kernel", f"{drawn} rests own bonus", "V S K", low, 8),
    ]


def _report() -> list[Build]:
    module, row = "sampling.triton.report", {"stride": "i32", "V": "i32", "S": "i32"}
    results = {"chosen": "*fp32", "ranks": "*i32", "top_ids": "*i32", "top_values": "*fp32"}
    parts = {"tokens": "*i32", "peaks": "*fp32", "sums": "*fp32", "better": "*i32"}

    def build(name: str, signature: dict[str, str], constexprs: dict[str, object], warps: int) -> Build:
        kernel = f"{module}:{name.partition('.')[0]}_kernel"
        return Build(f"sampling.{name}", kernel, signature, constexprs, num_warps=warps, num_stages=1)

    return [
        build("best.n1", {"logits": "*bf16", "parts": "*i64", **row}, {"CHUNK": 4096, "N": 1}, 8),
        build("best.n20", {"logits": "*fp32", "parts": "*i64", **row}, {"CHUNK": 4096, "N": 20}, 8),
        build(
            "argmax",
            {"logits": "*fp32", "parts": "*i64", "out": "*i32", "stride": "i32", "S": "i32"},
            {"S_PAD": 64},
            1,
        ),
        build("sums", {"logits": "*fp32", **parts, **row}, {"CHUNK": 4096}, 8),
        build(
            "logprobs",
            {"logits": "*fp32", **parts, "parts": "*i64", **results, **row},
            {"S_PAD": 64, "N": 20, "PARTS": 1024},
            4,
        ),
    ]


def _edit() -> list[Build]:
    module = "sampling.triton.edit"
    counted = {"counts": "*i16", "slots": "*i64", "tokens": "*i32", "token_stride": "i32", "V": "i32", "N": "i32"}
    penalties = dict.fromkeys(("repetition", "presence", "frequency"), "*fp32")
    where, row = {"counts": "*i16", "slots": "*i64"}, {"stride": "i32", "V": "i32"}
    entries = {"logits": "*fp32", "rows": "*i32", "tokens": "*i32", "values": "*fp32", "stride": "i32", "N": "i32"}
    mask = {"logits": "*fp32", "mask": "*i32", "lines": "*i64", **row, "WORDS": "i32"}

    def build(name: str, signature: dict[str, str], constexprs: dict[str, object], warps: int) -> Build:
        kernel = f"{module}:{name}_kernel"
        return Build(f"sampling.{name}", kernel, signature, constexprs, num_warps=warps, num_stages=1)

    return [
        build("mark", counted, {"BLOCK": 256}, 2),
        build("count", {**counted, "first": "i32"}, {"BLOCK": 64}, 4),
        build("penalties", {"logits": "*fp32", **where, **penalties, **row}, {"BLOCK": 4096}, 8),
        build("bias", entries, {"BLOCK": 256}, 2),
        build("mask", mask, {"LINES": True, "BLOCK": 4096}, 8),
    ]
