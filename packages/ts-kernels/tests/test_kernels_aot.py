"""Ahead-of-time compilation: norm's builds on all targets, the gates, the cache, and a compiler that dies."""

import json
import textwrap
from pathlib import Path

import pytest
from ts_kernels import aot, cli, errors, platform, settings
from ts_kernels.aot import Build, _figures, _report, _runner, _targets, _wire
from ts_kernels.aot._runner import Result

needs_triton = pytest.mark.skipif(platform.triton_error() is not None, reason="triton is not installed")

# Kernels that are wrong on purpose, in a module of their own since the compiling process has to import it.
KERNELS = """
    import os
    import triton
    import triton.language as tl

    @triton.jit
    def greedy(x, out, N: tl.constexpr):
        "A product whose operands are more than a block has room for."
        i = tl.arange(0, N)
        a = tl.load(x + i[:, None] * N + i[None, :])
        tl.store(out + i[:, None] * N + i[None, :], tl.dot(a, a).to(tl.bfloat16))

    @triton.jit
    def spilling(x, out, N: tl.constexpr):
        "More values a thread than it has registers: each is needed again after a sum over all."
        i = tl.arange(0, N)
        a = tl.load(x + i)
        for _ in range(3):
            a = a * tl.sum(a, 0)
        tl.store(out + i, a)

    @triton.jit
    def unknown_name(x):
        tl.store(x, nothing)

    class Deadly:
        arg_names = ["x"]
        def __getattr__(self, name):
            os._exit(7)

    deadly = Deadly()
"""


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of wrong kernels, where the compiling process finds it."""
    (tmp_path / "bad_kernels.py").write_text(textwrap.dedent(KERNELS))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def compiled(build: Build, target: str = "sm_90", cache: Path | None = None) -> Result:
    (result,) = _runner.run([build], _targets.parse(target), cache)
    return result


def bad_build(name: str, signature: dict[str, str], size: int | None, **changes: object) -> Build:
    constexprs = {} if size is None else {"N": size}
    return Build(name, f"bad_kernels:{name}", signature, constexprs, **changes)  # type: ignore[arg-type]


@needs_triton
def test_norm_on_every_target() -> None:
    results = list(_runner.run(aot.collect("norm.rms_norm"), _targets.parse("")))
    assert {r.target.name for r in results} == set(_targets.DEFAULT)
    for result in results:
        assert result.problems == []
        assert result.figures is not None
        assert result.figures.registers > 4


@needs_triton
def test_e4m3_compiles_from_the_architecture_that_selection_says() -> None:
    (build,) = aot.collect("kv_cache.write_kv.fp8e4nv")
    assert platform.OLDEST_E4M3_ARCH == 89
    assert compiled(build, "sm_89").problems == []
    assert "fp8e4nv not supported in this architecture" in " ".join(compiled(build, "sm_80").problems)


def test_stages_are_as_many_as_fit() -> None:
    """Three tiles of fp32 weights and rows, 36 KB each, were launched where two or one fit."""
    fits = {name: platform.described(name).stages(4, 36 * platform.KB) for name in _targets.DEFAULT}
    assert fits == {"sm_90": 4, "sm_100": 4, "sm_120": 3, "gfx942": 2, "gfx950": 4}
    assert platform.described("sm_120").stages(3, 40 * platform.KB, 32 * platform.KB) == 2
    assert platform.described("gfx942").stages(3, 100 * platform.KB) == 1
    assert platform.described("sm_75").shared_limit == 99 * platform.KB


@needs_triton
def test_what_is_launched_on_sm_120_fits_and_what_sm_90_launches_does_not() -> None:
    (build,) = aot.collect("moe.grouped.fp32.16x128.sm_120")
    (roomy,) = aot.collect("moe.grouped.fp32.16x128.sm_90")
    assert compiled(build, "sm_120").problems == []
    (problem,) = compiled(Build(**{**roomy.__dict__, "targets": ()}), "sm_120").problems
    assert problem == "takes 110592 bytes of shared memory, 101376 there are"


@pytest.mark.nightly
@needs_triton
def test_every_build_on_every_target() -> None:
    wrong = [
        _report.line(r) for r in _runner.run(aot.collect(), _targets.parse(""), _runner.cache_folder()) if r.problems
    ]
    assert not wrong, "\n".join(wrong)


@needs_triton
def test_too_much_shared_memory_and_spills_fail(bad: None) -> None:
    pointers = {"x": "*bf16", "out": "*bf16"}
    greedy = compiled(bad_build("greedy", pointers, 256, num_warps=8), "gfx942")
    assert any("bytes of shared memory, 65536 there are" in p for p in greedy.problems), greedy
    wide = {"x": "*fp32", "out": "*fp32"}
    spilling = compiled(bad_build("spilling", wide, 32768, num_warps=4))
    assert spilling.figures is not None
    assert spilling.figures.spills > 0
    assert spilling.problems == [f"spills {spilling.figures.spills} bytes a thread, 0 allowed"]
    allowed = Result(
        bad_build("spilling", wide, 32768, spills={"sm_90": spilling.figures.spills}),
        spilling.target,
        spilling.figures,
        None,
    )
    assert allowed.problems == []


@needs_triton
def test_a_build_that_fails_fails_alone(bad: None) -> None:
    x = {"x": "*fp32"}
    wrong = [
        bad_build("unknown_name", x, None),
        bad_build("deadly", x, None),
        Build("missing", "norm.triton:rms_norm_kernel", {"x": "*fp32"}),
        Build("extra", "norm.triton:rms_norm_kernel", {"z": "*fp32"}),
        Build("nowhere", "norm.nothing:kernel", {}),
    ]
    good = aot.collect("norm")[:1]
    problems = {r.build.name: r.problems for r in _runner.run([*wrong, *good], _targets.parse("sm_90"))}
    assert problems.pop(good[0].name) == []
    reasons = {
        "unknown_name": "nothing is not defined", "deadly": "ended with status 7", "missing": "nothing given for",
        "extra": "has no ['z']", "nowhere": "ModuleNotFoundError",
    }  # fmt: skip
    for name, reason in reasons.items():
        (problem,) = problems[name]
        assert problem.startswith("does not compile: ")
        assert reason in problem


@needs_triton
def test_a_result_is_kept_until_the_build_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = aot.collect("norm.rms_norm.fp32")[0]
    first = compiled(build, cache=tmp_path)
    monkeypatch.setattr(_runner, "Compiler", lambda: pytest.fail("compiled again"))
    assert compiled(build, cache=tmp_path).figures == first.figures
    with pytest.raises(pytest.fail.Exception, match="compiled again"):
        compiled(Build(**{**build.__dict__, "num_warps": 2}), cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    kept.write_text("{")
    with pytest.raises(pytest.fail.Exception, match="compiled again"):
        compiled(build, cache=tmp_path)


@needs_triton
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table, data = tmp_path / "aot.md", tmp_path / "aot.json"
    arguments = ["aot", "--only", "norm.rms_norm.fp32", "--target", "sm_90,gfx942"]
    assert cli.main([*arguments, "--markdown", str(table), "--json", str(data)]) == 0
    assert "2 compiled, 0 failed" in capsys.readouterr().out
    assert "| norm.rms_norm.fp32.256 | 1 x 1 | " in table.read_text()
    first = json.loads(data.read_text())["results"][0]
    assert (first["build"], first["target"], first["problems"]) == ("norm.rms_norm.fp32.256", "gfx942", [])
    assert cli.main(["aot", "--only", "nothing"]) == 2
    assert "no build starts with 'nothing'; there are those of" in capsys.readouterr().err
    assert cli.main(["aot", "--target", "sm_1"]) == 2
    assert "no target 'sm_1'; there are sm_80" in capsys.readouterr().err


def test_reading_what_the_tools_print() -> None:
    log = """
        ptxas info    : Function properties for k
            24 bytes stack frame, 20 bytes spill stores, 28 bytes spill loads
        ptxas info    : Used 255 registers, used 1 barriers, 24 bytes cumulative stack size, 512 bytes smem
    """
    assert _figures.parse_ptxas(log, 100) == _figures.Figures(255, 28, 512)
    assembly = "    .group_segment_fixed_size: 64\n    .vgpr_count:     128\n    .vgpr_spill_count: 3\n"
    assert _figures.parse_amdgcn(assembly, 1000) == _figures.Figures(128, 12, 1000)
    with pytest.raises(errors.BuildError, match="says neither registers nor spills"):
        _figures.parse_ptxas("nothing", 0)
    with pytest.raises(errors.BuildError, match="does not say vgpr_spill_count"):
        _figures.parse_amdgcn(assembly.replace("spill", "other"), 0)


@needs_triton
def test_a_build_crosses_to_the_compiling_process() -> None:
    import triton.language as tl

    values = {"N": 4, "F": 0.5, "NAME": "x", "NONE": None, "FLAG": True, "DTYPE": tl.bfloat16}
    build = Build("b", "a.b:c", {"x": "*fp32"}, values, 8, 3, ("x",), {"*": 4}, ("sm_90",), {"waves_per_eu": 2})
    (target,) = _targets.parse("gfx942")
    assert _wire.unpack(_wire.pack(build, target)) == (build, target)
    with pytest.raises(TypeError, match="N: a object cannot be given"):
        _wire.pack(Build("b", "k", {}, {"N": object()}), target)


def test_mistakes_of_a_build() -> None:
    with pytest.raises(errors.RegistrationError, match="b: N is both a constexpr and in the signature"):
        Build("b", "k", {"N": "i32"}, {"N": 1})
    with pytest.raises(errors.RegistrationError, match="b: aligned names y, not in the signature"):
        Build("b", "k", {"x": "*fp32"}, aligned=("y",))
    spills = Build("b", "k", {}, spills={"gfx942": 8, "*": 4})
    assert (spills.spill_allowance("gfx942"), spills.spill_allowance("sm_90")) == (8, 4)


def test_names_are_unique(monkeypatch: pytest.MonkeyPatch) -> None:
    from ts_kernels.aot import norm

    twice = norm.aot_builds()[:1] * 2
    monkeypatch.setattr(norm, "aot_builds", lambda: twice)
    with pytest.raises(errors.RegistrationError, match="two builds are named"):
        aot.collect("norm")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert settings.cache_home() == tmp_path
    assert _runner.cache_folder() == tmp_path / "ts_kernels" / "aot"
