"""Checkpoints that must be refused, by messages that name what is wrong; and ways to lay out good ones."""

import json
import os
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from ts_kernels import _native
from ts_kernels import settings as kernel_settings
from ts_modeling import CheckpointError, ConfigError, Mesh, load_model, read_config
from ts_modeling.checkpoint import CheckpointFolder, SafetensorsFile, load_weights
from ts_modeling.checkpoint.safetensors import Window
from ts_modeling.layers import Leaf, Linear
from ts_modeling.registry import build, table_of
from ts_modeling.testing import INT4, Sequences, dequantized, pack_int4, save_tensors, unpack_int4, write_checkpoint

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DOWN = "language_model.model.layers.1.mlp.experts.5.down_proj"
O_PROJ = "language_model.model.layers.2.self_attn.o_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    return str(caught.value)


def logits(folder: Path) -> Tensor:
    rows = Sequences(1, 8)
    model = load_model(folder, dtype="float32")
    return model.forward(rows.batch(prefills=[(0, [3, 1, 4, 1, 5])]), model.new_cache(rows.num_pages, 4))


def test_missing_tensors_are_named(folder: Path) -> None:
    edit(folder, lambda t: [t.pop(O_PROJ), t.pop(f"{DOWN}.weight_scale")])
    message = refusal(folder)
    assert f"{DOWN}.weight_scale, {O_PROJ} missing" in message


def test_unknown_tensors_are_named(folder: Path) -> None:
    edit(folder, lambda t: t.update({"language_model.model.layers.1.mlp.gate.bias": torch.zeros(8)}))
    assert "language_model.model.layers.1.mlp.gate.bias unknown" in refusal(folder)


def test_both_ways_in_one_message_and_long_lists_are_cut(folder: Path) -> None:
    edit(folder, lambda t: [t.update({f"x.{name}": t.pop(name)}) for name in list(t) if ".experts.3." in name])
    message = refusal(folder)
    assert "and 13 more missing" in message
    assert "x.language_model" in message
    assert "unknown" in message


def test_misshapen_tensors_are_named(folder: Path) -> None:
    edit(folder, lambda t: t.update({O_PROJ: t[O_PROJ][:, :-1].contiguous()}))
    assert f"{O_PROJ} has shape [64, 63], config.json asks for [64, 64]" in refusal(folder)


def test_a_transposed_pack_is_named(folder: Path) -> None:
    edit(folder, lambda t: t.update({f"{DOWN}.weight_packed": t[f"{DOWN}.weight_packed"].T.contiguous()}))
    assert f"{DOWN}.weight_packed has shape [8, 64]" in refusal(folder)


def test_mistyped_tensors_are_named(folder: Path) -> None:
    edit(folder, lambda t: t.update({O_PROJ: t[O_PROJ].to(torch.int8)}))
    assert f"{O_PROJ} is int8, expected bfloat16 or float32" in refusal(folder)


def test_types_that_no_kernel_reads_are_refused(folder: Path) -> None:
    edit(
        folder,
        lambda t: t.update({O_PROJ: t[O_PROJ].double(), f"{DOWN}.weight_scale": t[f"{DOWN}.weight_scale"].int()}),
    )
    message = refusal(folder)
    assert f"{O_PROJ} is float64" in message
    assert f"{DOWN}.weight_scale is int32, expected bfloat16 or float32 or float16" in message


@pytest.mark.parametrize(("dtype", "exact"), [("float32", True), ("bfloat16", False)])
def test_half_precision_becomes_the_type_of_the_activations(folder: Path, dtype: str, exact: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    half = (torch.randn(64, 64, generator=generator) / 8).half()
    edit(folder, lambda t: t.update({O_PROJ: half}))
    stored = load_model(folder, dtype=dtype)
    edit(folder, lambda t: t.update({O_PROJ: half.float()}))
    assert stored.dtype == getattr(torch, dtype)
    kept = load_model(folder, dtype=dtype)
    rows = Sequences(1, 8)
    batch = rows.batch(prefills=[(0, [3, 1, 4, 1, 5])])
    one, other = (model.forward(batch, model.new_cache(rows.num_pages, 4)) for model in (stored, kept))
    assert torch.equal(one, other) == exact


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_no_numbers_are_named(folder: Path, value: float) -> None:
    name = f"{DOWN}.weight_scale"
    edit(folder, lambda t: t[name][3].fill_(value))
    assert f"{name} holds scales that are not finite" in refusal(folder)


def test_a_weight_shape_that_disagrees_is_named(folder: Path) -> None:
    edit(folder, lambda t: t.update({f"{DOWN}.weight_shape": torch.tensor([64, 32])}))
    assert f"{DOWN}.weight_shape says [64, 32], config.json asks for [64, 64]" in refusal(folder)


def test_stacked_parts_must_share_a_type(folder: Path) -> None:
    name = "language_model.model.layers.0.mlp.up_proj.weight"
    for other, called in ((torch.float32, "float32"), (torch.float16, "float16")):
        edit(folder, lambda t, other=other: t.update({name: t[name].to(other)}))
        assert (
            f"{name} is {called}, but {name.replace('up', 'gate')}, which is stacked with it, is bfloat16"
            in refusal(folder)
        )


def test_vision_and_prediction_tensors_are_known_and_skipped(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, num_nextn_predict_layers=1)
    before = logits(tmp_path)
    extra = ("vision_tower.encoder.blocks.0.wqkv.weight", "mm_projector.proj.0.weight")
    mtp = "language_model.model.layers.3.eh_proj.weight"
    edit(tmp_path, lambda t: t.update({name: torch.ones(2) for name in (*extra, mtp)}))
    assert torch.equal(before, logits(tmp_path))


def test_prediction_tensors_without_declaration_are_unknown(folder: Path) -> None:
    edit(folder, lambda t: t.update({"language_model.model.layers.3.eh_proj.weight": torch.ones(2)}))
    assert "layers.3.eh_proj.weight unknown" in refusal(folder)


def test_one_file_and_many_files_load_alike(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "one")
    write_checkpoint(tmp_path / "many", files=3)
    write_checkpoint(tmp_path / "plain", nested=False)
    expected = logits(tmp_path / "one")
    assert torch.equal(expected, logits(tmp_path / "many"))
    assert torch.equal(expected, logits(tmp_path / "plain"))


def test_progress_counts_bytes(folder: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    load_model(folder, progress=lambda *args: seen.append(args))
    done = [d for d, _, _ in seen]
    assert done == sorted(done)
    assert len({total for _, total, _ in seen}) == 1
    assert done[-1] == seen[-1][1] > 100_000
    assert seen[-1][2] == "head"


@dataclass
class Loaded:
    """One rank's model; bytes that it read, and those of its buffers; how often it looked at each tensor."""

    model: nn.Module
    read: int
    size: int
    looked: dict[str, int]


def load_rank(folder: Path, mesh: Mesh) -> Loaded:
    looked: dict[str, int] = defaultdict(int)

    class Watched(CheckpointFolder):
        def read(self, name: str) -> Tensor:
            looked[name] += 1
            return super().read(name)

        def lend(self, name: str, window: Window) -> Tensor:
            looked[name] += 1
            return super().lend(name, window)

    config = read_config(folder)
    device = torch.device("cpu")
    built = build(config, mesh, dtype=torch.float32, device=device, positions=8)
    weights = Watched(folder)
    read = load_weights(built.model, weights, table_of(config), device=device, progress=None)
    leaves = [module for module in built.model.modules() if isinstance(module, Leaf)]
    buffers = (b for leaf in leaves for b in leaf.buffers_wanted().items())
    size = sum(prod(b.shape) * (4 if name == "bias" else b.dtypes[0].itemsize) for name, b in buffers)
    return Loaded(built.model, read, size, looked)


def test_each_rank_reads_its_part_once(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, moe_intermediate_size=128)
    whole = load_rank(tmp_path, Mesh.single())
    assert whole.read == whole.size
    assert set(whole.looked.values()) == {1}
    for rank in range(4):
        part = load_rank(tmp_path, Mesh(4, {"attn_tp": 4, "moe_ep": 2, "moe_tp": 2}, rank))
        assert part.read == part.size < 0.4 * whole.read
        assert set(part.looked.values()) == {1}


@pytest.mark.parametrize("keep", [False, True])
def test_nothing_that_is_kept_lies_in_the_file(folder: Path, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are lent where they are mapped, and the mapping shows what becomes of the file."""
    monkeypatch.setattr(kernel_settings, "_current", [replace(kernel_settings.current(), keep_source=keep)])
    rows = Sequences(1, 8)
    model = load_model(folder, dtype="float32")
    batch = rows.batch(prefills=[(0, [3, 1, 4, 1, 5])])
    before = model.forward(batch, model.new_cache(rows.num_pages, 4))
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(b"\xff" * (folder / WEIGHTS).stat().st_size)
    assert torch.equal(model.forward(batch, model.new_cache(rows.num_pages, 4)), before)


def test_sources_that_are_kept_lie_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_settings, "_current", [replace(kernel_settings.current(), keep_source=True)])
    model = load_rank(folder, Mesh.single()).model
    plain = dequantized(folder)
    for i in range(3):
        source = model.get_submodule(f"layers.{i}.attention.o").weight.source  # type: ignore[union-attr]
        assert torch.equal(source.float(), plain[f"model.layers.{i}.self_attn.o_proj.weight"])


def test_the_peak_is_the_prepared_model_and_little_more(tmp_path: Path) -> None:
    """110 MB in 24 layers: the resident set never exceeds 1.2 times what is held in the end (measured: 1.16)."""
    sizes = {"hidden_size": 512, "intermediate_size": 512, "moe_intermediate_size": 256, "num_hidden_layers": 24}
    write_checkpoint(tmp_path, int4=False, **sizes, n_routed_experts=4)
    code = (
        "import sys, torch; from pathlib import Path; from ts_modeling import load_model\n"
        "lines = lambda: open('/proc/self/status').readlines()\n"
        "resident = lambda field: next(int(x.split()[1]) for x in lines() if x.startswith(field))\n"
        "load_model(sys.argv[1], load_format='dummy', max_positions=8); before = resident('VmRSS')\n"
        "Path('/proc/self/clear_refs').write_text('5')\n"
        "model = load_model(sys.argv[2], max_positions=8)\n"
        "print((resident('VmHWM') - before) / (resident('VmRSS') - before), (resident('VmRSS') - before) << 10)"
    )
    write_checkpoint(tmp_path / "small")
    command = [sys.executable, "-c", code, str(tmp_path / "small"), str(tmp_path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    ratio, held = map(float, out.split())
    stored = (tmp_path / WEIGHTS).stat().st_size
    assert 0.9 * stored < held < 1.2 * stored
    assert ratio < 1.2, out


@pytest.mark.parametrize("keep", [0, 5, 8, 400, 20_000, -1])
def test_truncated_files_are_refused(folder: Path, keep: int) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(folder)
    assert str(path) in message
    assert any(word in message for word in ("truncated", "too short"))


def header_file(path: Path, header: object, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{nonsense", "not JSON"),
        (b"[1, 2]", "no JSON object"),
        (b"[" * 100_000, "not JSON"),
        ({"a": entry([2], [0, 8]), "b": entry([2], [4, 12])}, "b overlaps a"),
        (b'{"a": 1, "a": 2}', "comes twice"),
        ({"a": entry([2], [8, 16])}, "8 bytes before a belong to no tensor"),
        ({"a": entry([2], [0, 8])}, "8 bytes at its end belong to no tensor"),
        ({"a": entry([1] * 9 + [4], [0, 16])}, "10 dimensions"),
        ({"a": entry([2], [0, 4])}, "needs 8 bytes, its offsets span 4"),
        ({"a": entry([-2], [0, 8])}, "no size"),
        ({"a": entry([1 << 40, 1 << 40], [0, 8])}, "its offsets span 8"),
        ({"a": entry([1 << 30], [0, 1 << 32])}, "truncated"),
        ({"a": entry([2], [0, 8], "F33")}, "unknown dtype"),
        ({"a": {"dtype": "F32"}}, "malformed"),
        ({"a": 3}, "malformed"),
        ({"a\nb": entry([2], [0, 8])}, r"'a\nb' is no name of a tensor"),
        ({"a\ud800": entry([2], [0, 8])}, r"'a\ud800' is no name of a tensor"),
        ({"a": entry([2.0], [0, 8])}, "no size"),  # type: ignore[list-item]
    ],
)
def test_corrupt_headers_are_refused(tmp_path: Path, header: object, message: str) -> None:
    path = header_file(tmp_path / "x.safetensors", header, b"\0" * 16)
    with pytest.raises(CheckpointError, match=r"x\.safetensors") as caught:
        SafetensorsFile(path)
    assert message in str(caught.value)


def test_a_name_that_comes_twice_among_many_is_found_at_once(tmp_path: Path) -> None:
    """Half a megabyte that took 12 s when each name was looked for among those before it."""
    pairs = [f'"t{i}": {json.dumps(entry([0], [0, 0]))}' for i in range(16_000)]
    path = header_file(tmp_path / "x.safetensors", f"{{{', '.join([*pairs, pairs[-1]])}}}".encode())
    began = time.process_time()
    with pytest.raises(CheckpointError, match="'t15999' comes twice"):
        SafetensorsFile(path)
    assert time.process_time() - began < 3


def test_an_absurd_header_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(CheckpointError, match="claims"):
        SafetensorsFile(path)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_header_never_crashes(tmp_path_factory: pytest.TempPathFactory, position: int, byte: int) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    header_file(path, {"a": entry([2], [0, 8]), "b": entry([2, 2], [8, 24])}, b"\1" * 24)
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] = byte
    path.write_bytes(raw)
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return
    read = [file.read(name).clone() for name in file.tensors]
    assert sum(tensor.nbytes for tensor in read) <= 24


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["F32", "I8"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(header=st.dictionaries(st.text(max_size=8) | st.just("__metadata__"), JSON, max_size=4))
def test_any_header_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, header: dict[str, Any]) -> None:
    path = header_file(tmp_path_factory.getbasetemp() / "any.safetensors", header, bytes(16))
    try:
        file = SafetensorsFile(path)
    except CheckpointError:
        return
    assert sum(file.read(name).nbytes for name in file.tensors) == 16


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["F32", "BF16", "U8"]), st.lists(st.integers(0, 3), max_size=3)), max_size=5))
def test_every_sound_file_is_read_back(tmp_path_factory: pytest.TempPathFactory, specs: list[Any]) -> None:
    names = {"F32": torch.float32, "BF16": torch.bfloat16, "U8": torch.uint8}
    tensors = {f"t{i}": (torch.arange(prod(s)) % 7).to(names[d]).view(s) for i, (d, s) in enumerate(specs)}
    path = tmp_path_factory.getbasetemp() / "sound.safetensors"
    save_file(tensors, path)
    file = SafetensorsFile(path)
    assert file.tensors.keys() == tensors.keys()
    assert all(torch.equal(file.read(name), tensor) for name, tensor in tensors.items())


def test_unaligned_tensors_are_read(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.0])
    header = {"pad": entry([1], [0, 1], "U8"), "a": entry([2], [1, 9]), "none": entry([0, 3], [9, 9])}
    path = header_file(tmp_path / "x.safetensors", header, b"\7" + values.numpy().tobytes())
    file = SafetensorsFile(path)
    assert torch.equal(file.read("a"), values)
    assert file.read("none").shape == (0, 3)
    assert torch.equal(file.lend("a", Window((3, 1), (0, 1), 1)), values[1:].expand(3, 1))
    assert file.lend("none", Window((3, 0), (1, 3), 0)).shape == (3, 0)


def test_a_window_is_lent_where_it_lies(tmp_path: Path) -> None:
    values = torch.arange(24.0).view(2, 3, 4)
    save_file({"first": torch.ones(5, dtype=torch.bfloat16), "values": values}, tmp_path / "x.safetensors")
    file = SafetensorsFile(tmp_path / "x.safetensors")
    part = values.transpose(-1, -2)[1, 1:3]
    window = Window(tuple(part.shape), part.stride(), int(part.storage_offset()))
    assert torch.equal(file.lend("values", window), part)
    assert file.lend("values", window).data_ptr() == file.lend("values", window).data_ptr()


def test_small_leaves_are_packed_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a model of less than 2 MB in one call, not a call each."""
    calls: list[int] = []

    def watched(runs: list["_native.Run"], pack: Callable[..., None] = _native.pack_runs) -> None:
        calls.append(len(runs))
        pack(runs)

    monkeypatch.setattr(_native, "pack_runs", watched)
    assert load_rank(folder, Mesh.single()).read < 2 << 20
    assert len(calls) == 1 < calls[0]


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "weights.bin", "..", ""])
def test_an_index_that_points_outside_is_refused(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path / "c", files=2)
    (tmp_path / "outside.safetensors").write_bytes((tmp_path / "c" / "model-00001-of-000002.safetensors").read_bytes())
    index = json.loads((tmp_path / "c" / INDEX).read_text())
    index["weight_map"][O_PROJ] = name
    (tmp_path / "c" / INDEX).write_text(json.dumps(index))
    assert "refused" in refusal(tmp_path / "c")


def test_an_index_must_agree_with_its_files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, files=2)
    index = json.loads((tmp_path / INDEX).read_text())
    moved = next(name for name, file in index["weight_map"].items() if file.startswith("model-00001"))
    index["weight_map"][moved] = "model-00002-of-000002.safetensors"
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert moved in refusal(tmp_path)
    del index["weight_map"][moved]
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert f"holds {moved}, which {INDEX} does not list" in refusal(tmp_path)


def test_a_tensor_that_two_files_hold_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, files=2)
    first, second = (tmp_path / f"model-0000{i}-of-000002.safetensors" for i in (1, 2))
    twice = next(iter(load_file(first)))
    save_file({**load_file(second), twice: load_file(first)[twice]}, second)
    assert f"{second.name}: holds {twice}, and so does {first.name}" in refusal(tmp_path)


@pytest.mark.parametrize(("name", "error"), [(INDEX, CheckpointError), ("config.json", ConfigError)])
def test_a_name_that_comes_twice_in_a_file_is_refused(tmp_path: Path, name: str, error: type[Exception]) -> None:
    write_checkpoint(tmp_path, files=2)
    again = {INDEX: O_PROJ, "config.json": "architectures"}[name]
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text.replace(f'"{again}"', f'"{again}": "", "{again}"', 1))
    with pytest.raises(error, match=f"{name}: is not JSON: the name '{again}' comes twice"):
        load_model(tmp_path)


@pytest.mark.parametrize("files", [1, 2])
def test_links_into_a_store_of_blobs_are_followed(tmp_path: Path, files: int) -> None:
    """The Hugging Face cache holds ``snapshots/<revision>/<name>`` as links to ``../../blobs/<digest>``."""
    write_checkpoint(tmp_path / "plain", files=files)
    snapshot, blobs = tmp_path / "snapshots" / "1f2e", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(sorted((tmp_path / "plain").iterdir())):
        (blobs / f"{i:064x}").write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{i:064x}")
    assert torch.equal(logits(snapshot), logits(tmp_path / "plain"))


def test_an_incomplete_download_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, files=2)
    (tmp_path / "model-00002-of-000002.safetensors").unlink()
    assert "model-00002-of-000002.safetensors: missing" in refusal(tmp_path)


def as_folder(path: Path) -> str:
    path.mkdir()
    return "is a folder, not a file"


def as_pipe(path: Path) -> str:
    os.mkfifo(path)
    return "is a pipe or a device, not a file"


def as_loop(path: Path) -> str:
    path.symlink_to(path.name)
    return "is a link that leads to nothing"


def as_broken_link(path: Path) -> str:
    path.symlink_to("../blobs/gone")
    return "is a link that leads to nothing"


@pytest.mark.parametrize("name", [WEIGHTS, INDEX, "model-00002-of-000002.safetensors"])
@pytest.mark.parametrize("make", [as_folder, as_pipe, as_loop, as_broken_link])
def test_what_is_there_and_no_file_is_said(tmp_path: Path, make: Callable[[Path], str], name: str) -> None:
    write_checkpoint(tmp_path, files=1 if name == WEIGHTS else 2)
    (tmp_path / name).unlink()
    kind = make(tmp_path / name)
    assert refusal(tmp_path).startswith(f"{tmp_path / name}: {kind}")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt"])
def test_pickled_weights_are_never_loaded(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder / name)
    message = refusal(folder)
    assert name in message
    assert "convert them to safetensors" in message


def test_a_folder_without_weights_is_refused(tmp_path: Path, folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert "neither" in refusal(folder)


def test_no_code_from_the_folder_runs(folder: Path) -> None:
    (folder / "modeling_kimi.py").write_text("raise SystemExit('executed')")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_kimi.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    assert torch.isfinite(logits(folder)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1 << 30))
def test_int4_packing_is_exact(rows: int, groups: int, seed: int) -> None:
    """Every multiple of the scale from -8 to 7 comes back as it was."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-7, 8, (rows, groups * 32), generator=generator).float()
    values[:, ::32] = 7.5
    packed, scale = pack_int4(values)
    assert torch.equal(scale, torch.ones_like(scale))
    assert torch.equal(unpack_int4(packed, scale)[:, 1:32], values[:, 1:32])


def test_the_helper_and_save_tensors_agree(tmp_path: Path) -> None:
    save_tensors(tmp_path, {"a": torch.ones(2), "b": torch.zeros(3)}, files=2)
    assert json.loads((tmp_path / INDEX).read_text())["weight_map"].keys() == {"a", "b"}
    assert INT4["format"] == "pack-quantized"


def test_a_leaf_with_pieces_says_how_they_are_taken() -> None:
    with pytest.raises(TypeError, match="Halves gives pieces and no builder of them; define builder"):
        type("Halves", (Leaf,), {"pieces": lambda self, types: ()})
    type("Other", (Linear,), {"pieces": lambda self, types: ()})  # has that of Linear
