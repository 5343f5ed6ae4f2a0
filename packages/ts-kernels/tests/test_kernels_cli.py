"""The command line, and the README's example."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor
from ts_kernels import arguments, benching, cases, checking, cli, errors, platform
from ts_kernels.registry import REGISTRY, Band, KernelSpec
from ts_kernels.selection import OPERATIONS

README = Path(__file__).parents[1] / "README.md"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in OPERATIONS)


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checking, "run", interrupted)
    assert cli.main(["check", "--only", "norm"]) == 130
    assert capsys.readouterr().err == "ts-kernels: interrupted\n"


def test_list_says_which_instruction_sets_there_are_and_why_amx_is_not(
    native: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from ts_kernels import _native

    assert cli.main(["list"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert f"{', '.join(_native.features())}; in use: {_native.isa()}" in first
    assert ("; no amx: " in first) == ("amx" not in _native.features())
    assert first.endswith(_native.amx_refusal())


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "norm.rms_norm", "--shape", "D=100", "--dtype", "x=float16"]) == 0
    out = capsys.readouterr().out
    assert "D=100" in out
    assert re.search(r"native .*cannot: .*x must be bfloat16 or float32, is float16", out)
    assert "reference (ts_kernels, band reference): CHOSEN" in out
    assert cli.main(["explain", "norm.rms_norm", "--impl", "reference"]) == 0
    assert "CHOSEN by override 'reference'" in capsys.readouterr().out
    assert cli.main(["explain", "norm.rms_norm", "--dtype", "x=int32"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"reference .*cannot: x must be .*float64, is int32", out)
    assert "nothing serves this call" in out


def test_what_explain_leaves_out_is_a_call_that_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for name in OPERATIONS:
        assert cli.main(["explain", name]) == 0
    out = capsys.readouterr().out
    assert "H=4 H_kv=2 D=32 V=32 page_size=16 window=0 soft_cap=0 sinks=0" in out
    assert "logits=float32 format=dense V=6144 K=3" in out
    assert "ids=int32 format=dense E=16" in out
    assert "counts=int16" in out


@pytest.mark.skipif(platform.interpreting(), reason="Triton is there")
@pytest.mark.skipif(platform.triton_error() is not None, reason="triton is not installed")
def test_explain_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "norm.rms_norm"]) == 0
    wanted = "triton, which is missing: on a CPU Triton runs in its interpreter alone (TRITON_INTERPRET=1)"
    assert wanted in capsys.readouterr().out


@pytest.mark.parametrize(("arch", "vendor"), [("sm_90", "nvidia"), ("gfx942", "amd")])
def test_explain_for_a_gpu_that_is_not_here(capsys: pytest.CaptureFixture[str], arch: str, vendor: str) -> None:
    assert platform.described(arch).vendor == vendor
    assert cli.main(["explain", "norm.rms_norm", "--device", "cuda", "--arch", arch]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"norm.rms_norm on cuda {arch} ")
    native = out[out.index("  native") :].splitlines()
    assert native[0].endswith(
        "cannot: needs device cpu, tensors are on cuda; needs the feature native, which is missing"
    )
    assert native[1:6] == [
        "      no   device cpu",
        "      no   the feature native",
        "      yes  x as bfloat16 or float32",
        "      yes  weight as bfloat16 or float32",
        "      yes  weights as dense",
    ]
    assert re.search(r"^  triton .*(CHOSEN|can, ranks lower)", out, re.M), "on any GPU"
    assert cli.main(["explain", "mla.decode", "--arch", arch, "--shape", "H=16"]) == 0
    assert "format=dense H=16" in capsys.readouterr().out, "weights are not packed there"


def test_on_a_gpu_that_is_not_here_a_usual_call_goes_to_triton(capsys: pytest.CaptureFixture[str]) -> None:
    for name in OPERATIONS:
        assert cli.main(["explain", name, "--arch", "sm_90"]) == 0
        out = capsys.readouterr().out
        assert re.search(r"^  triton \(ts_kernels, band portable\): CHOSEN", out, re.M) or platform.interpreting(), out
        assert "=bfloat16" in out or name.partition(".")[0] in ("moe", "sampling", "kv_cache"), out
    assert cli.main(["explain", "mla.decode", "--arch", "sm_75"]) == 0
    out = capsys.readouterr().out
    assert "triton, which is missing: Triton compiles for sm_80 and newer" in out
    assert "reference (ts_kernels, band reference): CHOSEN" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "norm.rms_norm", "--arch", "90"], "'90' is not an architecture such as sm_90 or gfx942"),
        (["explain", "norm.rms_norm", "--arch", "sm_90", "--device", "cpu"], "--arch is of a GPU, --device says cpu"),
        (["explain", "norm.rms_norm", "--device", "toaster"], "--device: "),
        (["explain", "norm.nothing"], "no operation 'norm.nothing'; the nearest are"),
        (["explain", "norm.rms_norm", "--shape", "Q=1"], "norm.rms_norm knows D; there is no 'Q'"),
        (["explain", "norm.rms_norm", "--shape", "D=x"], "--shape: 'D=x' must be NAME=VALUE"),
        (["explain", "norm.rms_norm", "--dtype", "x=int3"], "--dtype: 'int3' is not one of float32"),
        (["explain", "norm.rms_norm", "--impl", "fast"], "has no kernel 'fast'"),
        (["explain", "norm.rms_norm", "--shape", "D=1,D=2"], "--shape: D is given twice"),
        (["explain", "norm.rms_norm", "--device", "meta"], "--device: 'meta' cannot hold numbers here"),
        (["explain", "mla.decode", "--format", "fp8"], "mla.decode takes 'fp8'; they take dense, dense+packed, packed"),
        (["check", "--only", "norms"], "--only: no operation starts with 'norms'"),
        (["check", "--impl", "fast"], "--impl: no such kernel 'fast'; there are native, reference, triton"),
        (["check", "--impl", "native,reference"], "check --impl takes one kernel"),
        (["bench", "--only", "norms"], "--only: no operation starts with 'norms'"),
        (["bench", "--impl", "native,fast"], "--impl: no such kernel 'fast'"),
        (["bench", "--rows", "0"], "--rows must be from 1 to 4096, got 0"),
        (["bench", "--rows", "99999999999"], "--rows must be from 1 to 4096"),
        (["explain", "norm.rms_norm", "--shape", "D=" + 5000 * "9"], "D must be a whole number of at most 18 digits"),
        (
            ["bench", "--budget", "nan"],
            "argument --budget: must be a number of seconds above 0, 3600 at most, got 'nan'",
        ),
        (["goals", "--budget", "1e308"], "argument --budget: must be a number of seconds above 0, 3600 at most"),
        (["bench", "--dtype", "int8"], "--dtype: activations are float32 or bfloat16, not int8"),
        ([], "the following arguments are required: COMMAND (`ts-kernels --help` has all)"),
        (["lists"], "invalid choice: 'lists'"),
        (["list", "a\nb"], "unrecognized arguments: a b (`ts-kernels --help` has all)"),
        (["bench", "--rows", "x"], "argument --rows: invalid int value: 'x' (`ts-kernels bench --help` has all)"),
        (["explain", "norm.rms_norm", "--impl", ""], "argument --impl: must not be empty, got ''"),
        (["explain", "norm.rms_norm", "--format", " "], "argument --format: must not be empty, got ' '"),
        (["explain", "norm.rms_norm", "--arch", ""], "argument --arch: must not be empty"),
        (["explain", "norm.rms_norm", "--device", ""], "argument --device: must not be empty"),
        (["explain", "norm.rms_norm", "--device", "privateuseone"], "'privateuseone' cannot hold numbers here"),
        (["explain", "norm.rms_norm", "--device", "mkldnn"], "'mkldnn' cannot hold numbers here"),
        (["explain", "linear_attention.copy_states", "--shape", "D=1"], "copy_states knows none; there is no 'D'"),
        (["check", "--impl", ""], "argument --impl: must not be empty"),
        (["check", "--graphs", "--device", "cpu"], "check --graphs captures CUDA graphs, --device says cpu"),
        (["bench", "--impl", ","], "argument --impl: must not be empty, got ','"),
        (["tune", "norm.rms_norm", "--impl", ""], "argument --impl: must not be empty"),
        (["tune", "norm.rms_norm", "--output", ""], "argument --output: '' is no folder that can be written to"),
        (["tune", "norm.rms_norm", "--dtype", "int8"], "--dtype: activations are float32 or bfloat16, not int8"),
        (["tune", "norm.rms_norm", "--shape", "H=" + 5000 * "9"], "H must be a whole number of at most 18 digits"),
        (["tune", "norm.rms_norm", "--shape", "H=0"], "--shape: H must be at least 1"),
        (["aot", "--target", ""], "argument --target: must not be empty"),
        (["list", "--json", "/nowhere/x"], "argument --json: '/nowhere/x' is no file in a folder that exists"),
        (["list", "--json", ""], "argument --json: '' is no file in a folder that exists"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("ts-kernels: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "arch", ["sm_1", "sm_9", "sm_900", "sm_090", "sm_90b", "sm_\u0669\u0660", "gfx1", "gfx94", "gfx942x"]
)
def test_what_is_no_architecture(capsys: pytest.CaptureFixture[str], arch: str) -> None:
    assert cli.main(["explain", "norm.rms_norm", "--arch", arch]) == 2
    assert "is not an architecture such as sm_90 or gfx942 (NVIDIA's from sm_50, AMD's" in capsys.readouterr().err


def test_architectures_that_there_are() -> None:
    nvidia = ("50", "75", "80", "86", "87", "89", "90", "90a", "100", "100f", "101", "103a", "110", "120", "121")
    assert [platform.described(f"sm_{number}").arch for number in nvidia] == [int(n.rstrip("af")) for n in nvidia]
    amd = ("gfx900", "gfx906", "gfx90a", "gfx942", "gfx950", "gfx1030", "gfx1100", "gfx1151", "gfx1201", "gfx1250")
    assert [platform.described(name).arch_name for name in amd] == list(amd)


def test_check(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    built = platform.native_error() is None
    assert cli.main(["check"]) == (0 if built else 1)
    out = capsys.readouterr().out
    if built:
        assert " 0 failed" in out
        monkeypatch.setattr(checking, "TOLERANCE", {})
        assert cli.main(["check"]) == 1
        assert "FAILED" in capsys.readouterr().out


def test_a_check_of_nothing_has_not_passed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checking, "run", lambda *arguments: iter(()))
    file = tmp_path / "check.json"
    assert cli.main(["check", "--json", str(file)]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "ts-kernels: nothing to compare: only the reference runs here\n")
    assert json.loads(file.read_text())["outcomes"] == []
    assert cli.main(["check", "--impl", "triton"]) == 1
    assert "nothing to compare: triton serves none of these here" in capsys.readouterr().err


def test_check_of_one_kernel_and_of_a_broken_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if platform.triton_error() is None and platform.interpreting():
        assert cli.main(["check", "--impl", "triton", "--only", "norm"]) == 0
        out = capsys.readouterr().out
        assert "norm.rms_norm                    triton     -         bfloat16" in out
        assert "native" not in out

    def broken(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        raise RuntimeError("illegal memory access\nmore")

    REGISTRY.register(
        KernelSpec(operation="norm.rms_norm", name="broken", band=Band.REFERENCE, load=lambda: broken, origin="test")
    )
    try:
        assert cli.main(["check", "--only", "norm.rms_norm"]) == 1
    finally:
        REGISTRY.remove("norm.rms_norm", "broken")
    out = capsys.readouterr().out
    assert "inf FAILED RuntimeError: illegal memory access" in out
    assert "2 failed" in out


def test_bench(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    assert cli.main(["bench", "--only", "norm", "--json", str(file), "--budget", "0.01"]) == 0
    assert "\nnorm.layer_norm " in capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found["floor"]["read"] > 1e8
    assert found["floor"]["product"] > 1e8
    first, second = found["timings"][:2]
    assert [timing["operation"] for timing in found["timings"]] == [
        "norm.rms_norm",
        "norm.add_rms_norm",
        "norm.layer_norm",
    ]
    assert first["bytes"] == 3 * 256 * 4
    assert second["bytes"] == 5 * 256 * 4
    assert first["floor_us"] == pytest.approx(first["bytes"] / found["floor"]["read"] * 1e6)
    assert first["percent_of_floor"] == pytest.approx(100 * first["floor_us"] / first["kernel_us"])
    assert first["ratio"] == pytest.approx(first["torch_us"] / first["kernel_us"])
    assert first["kernel"] == ("native" if platform.native_error() is None else "reference")
    named = ["--impl", "reference,native,reference"]
    assert cli.main(["bench", "--only", "rope.apply_interleaved", *named, "--budget", "0.01"]) == 0
    lines = capsys.readouterr().out.splitlines()
    kernels = ["reference", "native"] if platform.native_error() is None else ["reference"]
    assert [line.split()[:2] for line in lines[1:]] == [["rope.apply_interleaved", kernel] for kernel in kernels]


def test_the_floor_is_the_longer_of_reading_and_computing() -> None:
    floor = benching.Floor(read=1e9, product=1e12, dtype="float32")
    assert floor.us(1000, None) == pytest.approx(1.0)
    assert floor.us(1000, 10**7) == pytest.approx(10.0)
    assert floor.us(None, None) is None


def test_what_cases_say_they_must_move() -> None:
    sizes = replace(cases.MINIATURE, rows=3, prompt=7, context=64)
    found = list(cases.all_cases(sizes))
    assert all(case.bytes > 0 for case in found if case.bytes is not None)
    said = {case.operation for case in found if case.bytes is not None}
    assert said >= {"norm.rms_norm", "gemm.linear", "gemm.mlp", "moe.experts", "mla.decode", "mla.prefill"}
    flops = {case.operation: case.flops for case in found}
    assert flops["gemm.mlp"] == 3 * 6 * 256 * 768


def test_every_case_has_a_label_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    labels = [case.label for case in cases.all_cases(replace(cases.MINIATURE, rows=2, prompt=3, context=20))]
    assert len(labels) == len(set(labels))
    assert {"mla.decode", "mla.decode of 4, with lse", "moe.experts int4", "norm.rms_norm"} <= set(labels)
    assert cli.main(["bench", "--only", "mla.decode", "--budget", "0.01"]) == 0
    assert "\nmla.decode of 4, with lse " in capsys.readouterr().out


def test_sizes_by_name_and_by_letter() -> None:
    sizes = arguments.sizes_of("heads=8,L=256,rows=4", cases.LARGE)
    assert (sizes.heads, sizes.latent, sizes.rows, sizes.hidden) == (8, 256, 4, 7168)
    with pytest.raises(errors.SelectionError, match=r"--shape knows .*; not 'Q'"):
        arguments.sizes_of("Q=1", cases.LARGE)


def test_readme_example_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, str(README), "exec"), {})


def test_many_forms_are_told_in_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "moe.experts", "--arch", "sm_90", "--format", "int4:source"]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"takes weights as int4:packed or int4:source\+packed or one of \d+ other forms, given int4:source", out
    )


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m ts_kernels.cli list | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("native kernels")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("explain norm.rms_norm | true", ""),  # whose end is closed before the little that there is comes
        ("explain norm.rms_norm >/dev/full", "ts-kernels: [Errno 28] No space left on device\n"),
        ("--help >/dev/full", "ts-kernels: [Errno 28] No space left on device\n"),
    ],
)
def test_output_that_nobody_takes(arguments: str, message: str) -> None:
    command = f"set -o pipefail; unset PYTHONUNBUFFERED; {sys.executable} -m ts_kernels.cli {arguments}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, message)
