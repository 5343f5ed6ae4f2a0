"""Registry, selection, overrides, explanations, settings."""

import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ts_kernels import cases, cli, errors, gemm, moe, norm, override, settings
from ts_kernels.platform import DeviceInfo, described
from ts_kernels.registry import REGISTRY, Band, Capability, Kernel, KernelSpec, OperationInfo, Query, Registry, Trait
from ts_kernels.selection import KEPT, OPERATIONS, declined, explain, select

OPERATION = "norm.rms_norm"
CPU = torch.device("cpu")
X, W = torch.ones(2, 8), torch.ones(8)


def spec(name: str = "mine", **changes: object) -> KernelSpec:
    values: dict[str, object] = {
        "operation": OPERATION, "name": name, "band": Band.VENDOR, "load": lambda: lambda x, weight, eps: x * 0 + 7
    }  # fmt: skip
    return KernelSpec(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def registered() -> Iterator[None]:
    """Kernels that a test adds are removed again."""
    before = {s.name for s in REGISTRY.kernels(OPERATION)}
    yield
    for s in REGISTRY.kernels(OPERATION):
        if s.name not in before:
            REGISTRY.remove(OPERATION, s.name)


def test_highest_band_wins_and_a_late_kernel_is_seen(registered: None) -> None:
    assert not norm.rms_norm(X, W, 0.0).eq(7).any()
    REGISTRY.register(spec())
    assert norm.rms_norm(X, W, 0.0).eq(7).all()
    REGISTRY.register(spec("a-first", load=lambda: lambda x, weight, eps: x * 0 + 8))
    assert norm.rms_norm(X, W, 0.0).eq(8).all(), "within a band the name decides"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"capability": Capability(device="cuda")}, "needs device cuda, tensors are on cpu"),
        ({"capability": Capability(vendor="amd")}, "needs a device by amd, this one is by none"),
        ({"capability": Capability(features=frozenset({"sve"}))}, "needs the feature sve, which is missing"),
        ({"dtypes": {"x": frozenset({torch.bfloat16})}}, "x must be bfloat16, is float32"),
        ({"formats": frozenset({"fp8"})}, "takes weights as fp8, given dense"),
        (
            {"traits": (Trait("D a multiple of 64", lambda dims: dims["D"] % 64 == 0),)},
            "needs D a multiple of 64, given D=8",
        ),
    ],
)
def test_a_kernel_that_cannot_is_passed_over_and_says_why(
    registered: None, changes: dict[str, object], reason: str
) -> None:
    REGISTRY.register(spec(**changes))
    assert not norm.rms_norm(X, W, 0.0).eq(7).any()
    explanation = explain(OPERATIONS[OPERATION].query(CPU, (torch.float32, torch.float32), (8,)))
    assert explanation.winner is not None
    assert explanation.winner.name != "mine"
    assert f"mine (ts_kernels, band vendor): cannot: {reason}" in str(explanation)
    with pytest.raises(errors.NoKernelError, match=reason.replace(".", r"\.")):
        norm.rms_norm(X, W, 0.0, impl="mine")


def test_every_reason_is_told() -> None:
    query = Query(OPERATION, DeviceInfo("cuda", 80, vendor="nvidia"), {"x": torch.float16}, {"D": 3}, "odd")
    told = spec(
        capability=Capability(device="cuda", vendor="nvidia", min_arch=90, features=frozenset({"x", "a"})),
        dtypes={"x": frozenset({torch.bfloat16, torch.float32})},
        traits=(Trait("even D", lambda d: d["D"] % 2 == 0), Trait("a K", lambda d: d["K"] > 0)),
    ).verdicts(query)
    assert [(v.need, v.objection) for v in told] == [
        ("device cuda", None),
        ("a device by nvidia", None),
        ("architecture 90 or newer", "needs architecture 90 or newer, device has 80"),
        ("the feature a", "needs the feature a, which is missing"),
        ("the feature x", "needs the feature x, which is missing"),
        ("x as bfloat16 or float32", "x must be bfloat16 or float32, is float16"),
        ("weights as dense", "takes weights as dense, given odd"),
        ("even D", "needs even D, given D=3"),
        ("a K", "needs a K, which could not be told: KeyError: 'K'"),
    ]


@pytest.mark.parametrize(
    ("arch", "able"), [("sm_80", False), ("sm_90", True), ("sm_100", True), ("sm_120", False), ("gfx942", False)]
)
def test_a_range_of_architectures_has_both_ends_and_a_vendor(arch: str, able: bool) -> None:
    need = Capability(device="cuda", vendor="nvidia", min_arch=90, max_arch=100)
    assert need.serves(described(arch)) == able
    assert str(need) == "cuda nvidia 90..100"
    assert str(Capability(device="cuda", vendor="nvidia", min_arch=80)) == "cuda nvidia 80.."
    assert str(Capability(device="cpu", features=frozenset({"native"}))) == "cpu native"
    with pytest.raises(errors.RegistrationError, match="a range of architectures needs a vendor"):
        Capability(min_arch=90)


@pytest.mark.parametrize(("arch", "able"), [("sm_80", False), ("sm_86", False), ("sm_89", True), ("gfx942", True)])
def test_triton_reads_an_fp8_cache_only_where_it_has_the_type(arch: str, able: bool) -> None:
    """A GPU before sm_89 has no e4m3 in Triton: there the kernels that take such caches as bytes serve, no others."""
    needs = {"attention.decode", "attention.prefill", "kv_cache.write_kv", "mla.decode", "mla.decode_absorbed",
             "mla.prefill"}  # fmt: skip
    for name in (*needs, "kv_cache.write_latent"):
        operation = OPERATIONS[name]
        for cache in (torch.bfloat16, torch.float8_e4m3fn):
            dtypes = tuple(cache if argument == "cache" else torch.bfloat16 for argument in operation.info.dtypes)
            query = operation.query(described(arch), dtypes, (64,) * len(operation.info.dims))
            served = able or cache == torch.bfloat16 or name not in needs
            explanation = explain(query)
            triton = next(each for each in explanation.candidates if each.spec.name == "triton")
            assert (not triton.objections) == served, (name, cache)
            why = "the feature triton e4m3 for cache as float8_e4m3fn, which is missing: Triton compiles float8_e4m3fn"
            assert (f"{why} for sm_89 and newer" in str(explanation)) == (not served)


def test_overrides(registered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    REGISTRY.register(spec())
    with override("reference"):
        assert norm.rms_norm(X, W, 0.0).eq(1).all()
        with override(norm__rms_norm="mine"):
            assert norm.rms_norm(X, W, 0.0).eq(7).all()
            assert norm.rms_norm(X, W, 0.0, impl="reference").eq(1).all(), "the call's own wins"
        assert norm.rms_norm(X, W, 0.0).eq(1).all()
    assert norm.rms_norm(X, W, 0.0).eq(7).all()
    with pytest.raises(errors.UnknownKernelError, match="has no kernel 'fast'; it has mine"):
        norm.rms_norm(X, W, 0.0, impl="fast")
    with (
        pytest.raises(errors.UnknownOperationError, match=r"no operation 'norm\.nothing'"),
        override(norm__nothing="x"),
    ):
        pass
    with pytest.raises(errors.UnknownKernelError, match="no operation has kernel 'fast'"), override("fast"):
        pass
    with pytest.raises(errors.UnknownKernelError, match="has no kernel 'fast'"), override(norm__rms_norm="fast"):
        pass
    for overrides in ({"*": "fast"}, {OPERATION: "fast"}, {"norm.nothing": "reference"}):
        monkeypatch.setattr(settings, "_current", [settings.Settings(overrides=overrides)])
        OPERATIONS[OPERATION].forget()
        with pytest.raises(errors.SettingsError, match=r"TS_KERNELS_IMPL: .*no"):
            norm.rms_norm(X, W, 0.0)
    monkeypatch.setattr(settings, "_current", [settings.Settings(overrides={OPERATION: "reference"})])
    OPERATIONS[OPERATION].forget()
    assert norm.rms_norm(X, W, 0.0).eq(1).all()
    OPERATIONS[OPERATION].forget()


def test_an_override_for_all_skips_operations_without_such_a_kernel(registered: None) -> None:
    REGISTRY.register(spec())
    with override("mine"):
        assert norm.rms_norm(X, W, 0.0).eq(7).all()
        assert gemm.linear(X, torch.ones(3, 8)).eq(8).all()


@pytest.mark.parametrize("way", ["call", "context", "environment"])
def test_an_override_checks_capability(registered: None, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    REGISTRY.register(spec(capability=Capability(device="cuda")))
    norm.rms_norm(X, W, 0.0)  # a kept choice must not hide it

    def call() -> None:
        with override(norm__rms_norm="mine") if way == "context" else nullcontext():
            norm.rms_norm(X, W, 0.0, impl="mine" if way == "call" else None)

    if way == "environment":
        variables = {"TS_KERNELS_IMPL": f"{OPERATION}=mine"}
        monkeypatch.setattr(settings, "_current", [settings.Settings.from_environment(variables)])
        OPERATIONS[OPERATION].forget()
    with pytest.raises(errors.NoKernelError, match=r"override 'mine'.*\n(.*\n)*.*needs device cuda"):
        call()
    OPERATIONS[OPERATION].forget()


def test_the_choice_is_kept_by_shape_class_not_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    OPERATIONS[OPERATION].forget()
    calls = []
    monkeypatch.setattr(
        "ts_kernels.selection.select", lambda query, impl=None: calls.append(query) or select(query, impl)
    )
    with override("reference"):  # so that no direct call goes past the kept choices
        for rows in (1, 2, 3, 100):
            norm.rms_norm(torch.ones(rows, 8), W, 0.0)
        assert len(calls) == 1
        norm.rms_norm(torch.ones(1, 16), torch.ones(16), 0.0)
        norm.rms_norm(torch.ones(1, 16).bfloat16(), torch.ones(16), 0.0)
    assert len(calls) == 3


def test_no_operations_choice_depends_on_the_batch() -> None:
    kept = []
    for rows in (2, 5):
        with override("reference"):
            for case in cases.all_cases(replace(cases.MINIATURE, rows=rows, prompt=7 * rows, context=64)):
                case.run(None)
            kept.append({name: set(operation._chosen) for name, operation in OPERATIONS.items()})
    assert kept[0] == kept[1]
    assert all(kept[0].values()), "every operation was called"


def test_choices_do_not_grow_without_bound() -> None:
    operation, dtypes = OPERATIONS[OPERATION], (torch.float32, torch.float32)
    for width in range(100_000):
        # As kernel() does once it has chosen; choosing itself 100,000 times would take half a minute.
        operation._keep(operation._chosen, (CPU, dtypes, (width,), "dense", None), abs, operation._generation)
    assert len(operation._chosen) == KEPT
    assert operation.kernel(CPU, dtypes, (99_999,)) is abs, "the last ones are kept"
    assert operation.kernel(CPU, dtypes, (3,)) is not abs
    assert len(operation._chosen) == KEPT
    operation.forget()


def test_a_choice_made_under_an_older_registry_is_not_kept(registered: None) -> None:
    operation, dtypes = OPERATIONS[OPERATION], (torch.float32, torch.float32)
    operation.forget()

    def late() -> Kernel:
        REGISTRY.register(spec())  # as another thread may, between the choice and its keeping
        return abs

    REGISTRY.register(spec("first", band=Band.TUNED, load=late))
    assert operation.kernel(CPU, dtypes, (8,)) is abs
    assert operation.kernel(CPU, dtypes, (8,)) is not abs


def test_threads_call_while_the_registry_changes(registered: None) -> None:
    stop, wrong = threading.Event(), []

    def call() -> None:
        while not stop.is_set():
            try:
                result = norm.rms_norm(X, W, 0.0)
                if not (result.eq(1).all() or result.eq(7).all()):
                    wrong.append(result)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        REGISTRY.register(spec())
        assert norm.rms_norm(X, W, 0.0).eq(7).all()
        REGISTRY.remove(OPERATION, "mine")
        assert norm.rms_norm(X, W, 0.0).eq(1).all()
        with override("reference"):
            assert norm.rms_norm(X, W, 0.0).eq(1).all()
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]


def test_the_direct_call_changes_no_choice(native: None, registered: None) -> None:
    """It is taken after a first call, and given up where another kernel could rank above it or is asked for."""
    operation = OPERATIONS[OPERATION]
    operation.forget()
    norm.rms_norm(X, W, 0.0)
    assert operation.direct is not declined
    with override("reference"):
        norm.rms_norm(X, W, 0.0)
        assert operation.direct is declined
    norm.rms_norm(X, W, 0.0)
    assert operation.direct is not declined
    REGISTRY.register(spec(traits=(Trait("D = 16", lambda dims: dims["D"] == 16),)))
    assert norm.rms_norm(X, W, 0.0).eq(1).all()
    assert operation.direct is declined
    assert norm.rms_norm(torch.ones(1, 16), torch.ones(16), 0.0).eq(7).all()


def test_the_direct_call_leaves_the_odd_to_the_checked_path(native: None) -> None:
    """Every other column, a half dtype, a weight that is a Python number: declined, then served or refused as ever."""
    norm.rms_norm(X, W, 0.0)
    wide = torch.randn(3, 16)
    torch.testing.assert_close(norm.rms_norm(wide[:, ::2], W, 0.0), norm.rms_norm(wide[:, ::2].clone(), W, 0.0))
    assert norm.rms_norm(X.double(), W, 0.0).dtype == torch.float64
    parameter = torch.nn.Parameter(W)
    assert norm.rms_norm(X, parameter, 0.0).eq(1).all()
    with pytest.raises(errors.ContractError, match="weight must be"):
        norm.rms_norm(X, W[:4], 0.0)


def test_a_kept_choice_costs_little() -> None:
    """The lookup alone, the best of many short runs: 1 us on an idle core, the bound is for busy ones."""
    operation, dtypes = OPERATIONS[OPERATION], (torch.float32, torch.float32)
    operation.kernel(CPU, dtypes, (8,))
    best = min(_per_call(lambda: operation.kernel(CPU, dtypes, (8,))) for _ in range(20))
    assert best < 10e-6


def _per_call(call: object, count: int = 200) -> float:
    start = time.perf_counter()
    for _ in range(count):
        call()  # type: ignore[operator]
    return (time.perf_counter() - start) / count


def test_registration_mistakes() -> None:
    registry = Registry()
    registry.declare(OperationInfo("a.b", ("x",), (), ""))
    with pytest.raises(errors.RegistrationError, match=r"operation a\.b is declared already"):
        registry.declare(OperationInfo("a.b", (), (), ""))
    registry.register(spec(operation="a.b", origin="first"))
    with pytest.raises(errors.RegistrationError, match="from first; rename the one from second"):
        registry.register(spec(operation="a.b", origin="second"))
    with pytest.raises(errors.RegistrationError, match="dtypes name y; the operation knows x"):
        registry.register(spec("other", operation="a.b", dtypes={"y": frozenset({torch.float32})}))
    with pytest.raises(errors.UnknownOperationError, match=r"no operation 'a\.c'; the nearest are a\.b"):
        registry.register(spec(operation="a.c"))


def test_every_operation_has_a_reference_and_a_native_kernel() -> None:
    for name in OPERATIONS:
        assert {"reference", "native"} <= {s.name for s in REGISTRY.kernels(name)}


def test_settings() -> None:
    read = settings.Settings.from_environment
    assert read({}) == settings.Settings()
    full = read(
        {
            "TS_KERNELS_IMPL": "native, mla.decode = reference",
            "TS_KERNELS_DEBUG": "1",
            "TS_KERNELS_KEEP_SOURCE": "1",
            "TS_KERNELS_PLUGINS": "0",
            "TS_KERNELS_THREADS": "2",
            "TS_KERNELS_ISA": "avx2",
        }
    )
    assert full.overrides == {"*": "native", "mla.decode": "reference"}
    assert (full.debug, full.keep_source, full.plugins, full.threads, full.isa) == (True, True, False, 2, "avx2")
    for name, value in (
        ("DEBUG", "yes"),
        ("THREADS", "2000"),
        ("THREADS", "two"),
        ("THREADS", 5000 * "9"),
        ("TUNED", "/nowhere"),
        ("IMPL", "norm.rms_norm="),
    ):
        with pytest.raises(errors.SettingsError, match=f"TS_KERNELS_{name}"):
            read({f"TS_KERNELS_{name}": value})


def test_a_user_without_a_home_is_asked_for_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(errors.SettingsError, match="XDG_CACHE_HOME must name a folder"):
        settings.cache_home()
    monkeypatch.setenv("XDG_CACHE_HOME", "/kept")
    assert settings.cache_home() == Path("/kept")


@pytest.mark.parametrize(
    ("name", "near"),
    [("TS_KERNELS_IMPLS", "IMPL"), ("TS_KERNELS_THREAD", "THREADS"), ("TS_KERNELS_KEEP_SOURCES", "KEEP_SOURCE")],
)
def test_a_misspelt_setting_is_refused_at_the_first_selection(
    monkeypatch: pytest.MonkeyPatch, name: str, near: str
) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setattr(settings, "_current", [])
    with pytest.raises(errors.SettingsError, match=f"{name} is no setting .* nearest is TS_KERNELS_{near}$"):
        select(Query(OPERATION, DeviceInfo("cpu"), {}, {}))


def test_an_unknown_operation_is_told_of_the_nearest_three() -> None:
    with pytest.raises(errors.UnknownOperationError) as caught:
        REGISTRY.operation("mla.decod")
    assert str(caught.value) == (
        "no operation 'mla.decod'; the nearest are mla.decode, mla.decode_absorbed, attention.decode "
        "(`ts-kernels list` has all)"
    )


def test_packed_weights_are_held_once(native: None) -> None:
    weight = gemm.prepare(torch.randn(64, 128).bfloat16())
    assert weight.source is None
    assert weight.nbytes < 64 * 128 * 2 * 1.3
    both = gemm.prepare(torch.randn(64, 128).bfloat16(), keep_source=True)
    assert both.format == "dense+packed"
    with override("reference"):
        assert gemm.prepare(torch.randn(4, 8)).format == "dense"


def test_reference_experts_need_their_sources(native: None) -> None:
    gate_up, down = moe.quantize_int4(torch.randn(2, 64, 32)), moe.quantize_int4(torch.randn(2, 32, 32))
    layer = moe.prepare_experts(gate_up, down)
    arguments = (torch.ones(1, 32), torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.int32), layer)
    assert moe.experts(*arguments).shape == (1, 32)
    with pytest.raises(errors.NoKernelError, match="given int4:packed"):
        moe.experts(*arguments, impl="reference")
    with pytest.raises(errors.KernelError, match="keep_source=True or set TS_KERNELS_KEEP_SOURCE=1"):
        layer.dequantize(0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("band", "vendor"), ("traits", None), ("traits", ("D = 16",)), ("formats", ["dense"]), ("load", None)],
)
def test_a_malformed_kernel_is_refused_and_takes_nothing_down(registered: None, field: str, value: object) -> None:
    with pytest.raises(errors.RegistrationError, match=f"mine: {field} is of another type"):
        REGISTRY.register(spec(**{field: value}))
    assert norm.rms_norm(X, W, 0.0).eq(1).all()


def test_a_band_between_is_shown_by_its_number(registered: None, capsys: pytest.CaptureFixture[str]) -> None:
    REGISTRY.register(spec(band=35))
    assert "band 35): CHOSEN" in str(explain(OPERATIONS[OPERATION].query(CPU, (torch.float32, torch.float32), (8,))))
    assert cli.main(["list"]) == 0
    assert "mine         35 " in capsys.readouterr().out


def test_a_sparse_tensor_is_an_error(native: None) -> None:
    norm.rms_norm(X, W, 0.0)
    with pytest.raises(errors.ContractError, match=r"x must be a tensor whose .*, got sparse_coo float32"):
        norm.rms_norm(X.to_sparse(), W, 0.0)
