"""``explain --family FILE``: a port that is being written, and what its author is told of each mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ts_modeling import registry
from ts_modeling.cli import main
from ts_modeling.testing import tiny_config

PORT = """
import torch
from torch import Tensor, nn
from ts_modeling.configuration import read_fields
from ts_modeling.layers import Leaf
from ts_modeling.models import llama
from ts_modeling.models.family import Family
from ts_modeling.placement import TOKENS, Boundary, Dim, Partial, Replicate, Shard, Spec

INNER = Dim("inner", 20)


class PortConfig(llama.LlamaConfig, frozen=True, kw_only=True):
    pass


class Up(Leaf):
    def __init__(self, hidden: Dim) -> None:
        super().__init__()
        takes = Spec(TOKENS, hidden, dense_tp=Replicate())
        self.boundary = Boundary((takes,), (Spec(TOKENS, INNER, dense_tp=Shard("inner")),))

    def forward(self, x: Tensor) -> Tensor:
        return x


class Down(Leaf):
    def __init__(self, hidden: Dim) -> None:
        super().__init__()
        takes = Spec(TOKENS, INNER, dense_tp=Shard("inner"))
        self.boundary = Boundary((takes,), (Spec(TOKENS, hidden, dense_tp=Partial()),))

    def forward(self, x: Tensor) -> Tensor:
        return x


class MLP(nn.Module):
    def __init__(self, hidden: Dim) -> None:
        super().__init__()
        self.up, self.down = Up(hidden), Down(hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))


class Port(llama.Llama):
    def __init__(self, config, mesh, **options):
        super().__init__(config, mesh, **options)
        for layer in self.layers:
            layer.mlp = MLP(Dim("hidden", config.hidden_size))


FAMILY = Family(
    architectures=("PortForCausalLM",),
    config=PortConfig,
    parse_config=lambda raw: read_fields(PortConfig, raw, raw, "", theta=10000.0),
    model=Port,
    checkpoint_table=llama.checkpoint_table,
    kv_spec=llama.model.kv_spec,
)
"""
MLP_FORWARD = "return self.down(self.up(x))"
DOWN_TAKES = 'INNER, dense_tp=Shard("inner"))\n'
UP_GIVES, DOWN_GIVES = 'dense_tp=Shard("inner")),))', "dense_tp=Partial()),))"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**tiny_config("llama"), "architectures": ["PortForCausalLM"]}))
    return path


def port(folder: Path, *changes: tuple[str, str], source: str = PORT) -> Path:
    """The port, with what its author wrote in the place of what is right."""
    for right, wrong in changes:
        assert source.count(right) == 1, right
        source = source.replace(right, wrong)
    path = folder / "port_model.py"
    path.write_text(source)
    return path


def refused(file: Path, config: Path, capsys: pytest.CaptureFixture[str], *, mesh: str = "attn_tp=2") -> str:
    """The one line that is said where nothing can be explained."""
    before = dict(registry.ARCHITECTURES), list(registry.FAMILIES), set(sys.modules), list(sys.path)
    assert main(["explain", "--family", str(file), "--model", str(config), "--mesh", mesh]) == 2
    assert before[:2] == (registry.ARCHITECTURES, registry.FAMILIES), "what was registered is taken back"
    assert file.stem in before[2] or file.stem not in sys.modules
    assert sys.path == before[3]
    out, said = capsys.readouterr()
    assert out == ""
    assert said.startswith("ts-modeling: ")
    assert said.count("\n") == 1
    return said.removeprefix("ts-modeling: ").rstrip("\n")


def test_a_port_is_explained_and_forgotten(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = port(tmp_path)
    for _ in range(2):
        assert main(["explain", "--family", str(file), "--model", str(config), "--mesh", "attn_tp=2"]) == 0
        told = capsys.readouterr().out
        assert "mlp.down" in told
        assert "  * all_reduce [sum] over attn_tp|dense_tp (2 ranks): 144 bytes a token; layers.N-1.mlp.down ->" in told
    assert "PortForCausalLM" not in registry.ARCHITECTURES
    assert main(["explain", "--model", str(config)]) == 2
    assert "PortForCausalLM'] is not supported" in capsys.readouterr().err


def test_a_port_of_several_files_registers_itself(tmp_path: Path, config: Path) -> None:
    """As a command, from elsewhere: it finds the files beside it, and nothing is written there."""
    folder = tmp_path / "src"
    folder.mkdir()
    file = port(folder, ("\nINNER = ", "\nfrom port_sizes import INNER\n_ = "))
    file.write_text("from __future__ import annotations\n" + file.read_text() + "register(FAMILY)\n")
    file.write_text(
        file.read_text().replace("import torch\n", "import torch\nfrom ts_modeling.registry import register\n")
    )
    (folder / "port_sizes.py").write_text('from ts_modeling.placement import Dim\nINNER = Dim("inner", 20)\n')
    command = ["-m", "ts_modeling.cli", "explain", "--family", str(file), "--model", str(config), "--mesh", "attn_tp=2"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "inner=20] Shard(inner)" in done.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # a sum that nobody makes
        ([(DOWN_GIVES, "dense_tp=Replicate()),))")],
         "@.up -> @.down: @.down takes Shard(inner) on dense_tp and gives Replicate(): a rank has its part of inner "
         "alone, and cannot give the whole. Declare that @.down takes Replicate(), or that it gives Partial() if it "
         "gives addends, Shard(dim) if columns\n"),
        ([(", dense_tp=Partial()", "")], "@.up -> @.down: @.down takes Shard(inner) on dense_tp and gives Replicate()"),
        # a sum that is not pending, and one that is
        ([("hidden, dense_tp=Replicate()", "hidden, dense_tp=Partial()")],
         "layers.0.post_norm -> @.up: layers.0.post_norm gives Replicate() on attn_tp|dense_tp|moe_tp, @.up takes "
         "Partial(sum): a Replicate() is already a value; making it Partial(sum) would count it once a rank. Declare "
         "that layers.0.post_norm gives Partial(sum), or that @.up takes Replicate()\n"),
        ([(DOWN_GIVES, "dense_tp=Replicate()),))"), (DOWN_TAKES, "INNER, dense_tp=Partial())\n"),
          (UP_GIVES, "dense_tp=Partial()),))")],
         "@.up -> @.down: @.down takes Partial(sum) on dense_tp and gives Replicate(): a rank has its addend alone, "
         "and cannot give the whole. Declare that @.down takes Replicate(), or that it gives Partial(sum) if it is "
         "linear\n"),
        # names and sizes
        ([(DOWN_GIVES, "dense_pt=Partial()),))")],
         "@.down: gives[0]: [tokens, hidden=72]{dense_pt: Partial(sum)}: there is no axis dense_pt, did you mean "
         "dense_tp? there are attn_dp, attn_tp, dense_tp, moe_ep, moe_tp\n"),
        ([(UP_GIVES, 'dense_tp=Shard("iner")),))')],
         "@.up: gives[0]: dense_tp = Shard(iner): there is no dimension iner, did you mean inner? there are tokens, "),
        ([('Dim("hidden", config', 'Dim("hiden", config')],
         "layers.0.post_norm -> @.up: gives [tokens, hidden=72] but the next module takes [tokens, hiden=72]; "
         "hidden=72 is not hiden=72: names and sizes of the two annotations must agree\n"),
        ([('Dim("inner", 20)', 'Dim("inner", 21)')],
         "@.up: inner=21 cannot be cut into 2 parts over attn_tp|dense_tp; choose a size that divides 21\n"),
        # how many go in and out
        ([(MLP_FORWARD, "gate, up = self.up(x)\n        return self.down(gate)")],
         "@.getitem: reads [0] of what @.up gives, which by its annotation is [tokens, inner=20]; give as many Specs "
         "in its gives as it has results, or index within an annotated module\n"),
        ([(UP_GIVES, "dense_tp=Shard('inner')),) * 2)")],
         "@.up -> @.down: gives a tuple of 2 but the next module takes the one [tokens, inner=20]{dense_tp: "
         "Shard(inner)}; unpack them, or give one Spec in the gives of @.up\n"),
        ([(MLP_FORWARD, "return self.down(self.up(x, x))")],
         "@.up: called with 2 positional and 0 named arguments, but its boundary takes 1 positional ones: make the "
         "call "),
        ([("x: Tensor) -> Tensor:\n        return x\n\n\nclass Down",
           "x: Tensor, y: Tensor) -> Tensor:\n        return x\n\n\nclass Down")],
         "@.up: its boundary takes 1, but its forward is Up.forward(self, x: torch.Tensor, y: torch.Tensor) -> "
         "torch.Tensor: make the two agree\n"),
        ([("self.boundary = Boundary((takes,), (Spec(TOKENS, INNER", "self.border = Boundary((takes,), "
          "(Spec(TOKENS, INNER")],
         "@.up: Up has no annotation; set self.boundary = Boundary(takes=(...), gives=(...)) in its __init__\n"),
        ([(MLP_FORWARD, "self.down(self.up(x))")],
         "layers.1.input_norm: is passed None, its boundary takes [tokens, hidden=72]{}; does what comes before it "
         "return?\n"),
        ([('Dim("inner", 20)', 'Dim("inner", 20.0)')],
         "@.up: gives[0]: inner=20.0 has no size; give a whole number from 1 on, or None if batches differ\n"),
        # what belongs in a leaf
        ([("Up(hidden), Down", "nn.Linear(72, 20), Down")], "@.up.weight: is read between modules; weights and "
         "buffers belong to leaves: take one of ts_modeling.layers, or write a Leaf with an annotation that has it\n"),
        ([(MLP_FORWARD, "return self.down(self.up(x) * 2)")], "@.mul: the model computes mul(@.up, 2) between "
         "modules; only module calls, + and reading inputs are compiled: move it into an annotated module\n"),
        ([(MLP_FORWARD, "return self.down(self.up(x) + 1)")],
         "@.add: computes with the constant 1 between modules; move it into an annotated module\n"),
        ([(MLP_FORWARD, "return self.up(x) + x")],
         "@.add: + of [tokens, inner=20] of @.up and [tokens, hidden=72] of layers.0.post_norm; inner=20 is not "
         "hidden=72: names and sizes must agree\n"),
        ([(MLP_FORWARD, "return self.down(self.up(x)) if x.sum() > 0 else x")], "@.gt: the model asks whether gt"
         "(sum(layers.0.post_norm[0]), 0) is true; the way through a model may depend on its configuration only; "
         "move what depends on values into an annotated module\n"),
        ([(MLP_FORWARD, "return self.down(self.up(x)) if len(x) > 1 else x")], "@: 'len' is not supported in "
          "symbolic "),
        ([(MLP_FORWARD, "return self.down(self.up(x)) if int(x.shape[0]) > 1 else x")], "@: int() argument must"),
        ([("self.up, self.down = Up(hidden), Down(hidden)", "self.both = [Up(hidden), Down(hidden)]"),
          (MLP_FORWARD, "return self.both[1](self.both[0](x))")],
         "@: calls a Up that is no part of the model; make it an attribute of a module, or keep several in "
         "nn.ModuleList\n"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_module_edge_placements_and_fix(
    changes: list[tuple[str, str]], message: str, tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(port(tmp_path, *changes), config, capsys)
    assert f"{said}\n".startswith(message.replace("@", "layers.0.mlp"))


@pytest.mark.parametrize("mesh", ["", "attn_dp=2", "attn_tp=2"])
def test_a_missing_sum_is_told_on_any_mesh(
    mesh: str, tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = port(tmp_path, (DOWN_GIVES, "dense_tp=Replicate()),))"))
    assert "takes Shard(inner) on dense_tp and gives Replicate()" in refused(file, config, capsys, mesh=mesh)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("FAMILY = Family(", "FAMILIES = Family(")], "{file}: it has no FAMILY; write FAMILY = Family(...), of ts_"),
        ([("FAMILY = Family(", "FAMILY = dict(")], "{file}: its FAMILY is a dict; write"),
        ([("INNER = Dim(", "INNER = Dimm(")], "{file}, line 10: NameError: name 'Dimm' is not defined"),
        ([("INNER = Dim(", "INNER = Dim((")], "{file}, line 10: SyntaxError: '(' was never closed"),
        ([("INNER = Dim(", "raise ValueError('1\\n2')\nINNER = Dim(")], "{file}, line 10: ValueError: 1 2"),
        ([("INNER = Dim(", "raise SystemExit\nINNER = Dim(")], "{file}, line 10: SystemExit"),
        ([('("PortForCausalLM",)', '("PortForCausalLM")')],
         "{file}, line 53: Family: architectures = 'PortForCausalLM'; give a tuple of names"),
        ([("config=PortConfig,\n", "config='PortConfig',\n")], "{file}, line 53: Family: config = 'PortConfig'; give"),
        ([("    kv_spec=llama.model.kv_spec,\n", "")], "{file}, line 53: TypeError: "),
        ([('"PortForCausalLM"', '"Qwen3ForCausalLM"')], "{file}: architectures Qwen3ForCausalLM are another family's"),
        ([("config=PortConfig", "config=llama.LlamaConfig")], "{file}: LlamaConfig is another family's; derive"),
        ([("layer.mlp = MLP(", "layer.mlp = MLP(config.nothing, ")], "{file}, line 50: AttributeError: "),
        ([("x: Tensor) -> Tensor:\n        return self", "x, y):\n        return self")],
         "{file}: TypeError: MLP.forward() missing 1 required positional argument: 'y' (raised in models/decoder.py, "),
        ([("kv_spec=llama.model.kv_spec", "kv_spec=None")], "{file}, line 53: Family: kv_spec = None; give a function"),
        ([("kv_spec=llama.model.kv_spec", "kv_spec=lambda *of: 0")], "PortConfig: the kv_spec of its family gives 0; "),
        ([("model=Port,", "model=lambda *of, **options: nn.Linear(1, 1),")],
         "PortConfig: its family's model is a Linear without annotations; derive it from AnnotatedModel, and say "),
        ([("hidden, dense_tp=Partial()", "hidden, Partial()")],
         "layers.0.mlp.down: gives[0]: Partial(op='sum') is no dimension"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_told_with_its_line(
    changes: list[tuple[str, str]], message: str, tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = port(tmp_path, *changes)
    said = refused(file, config, capsys)
    assert said.removeprefix("--family ").startswith(message.format(file=file))


def test_what_a_layer_of_the_package_raises_is_told_with_both_lines(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = port(tmp_path, ("self.up, self.down = Up(hidden)", "self.up, self.down = llama.model.dense_mlp(0, 0, 0, 0)"))
    said = refused(file, config, capsys)
    assert (
        f"--family {file}, line 40: AttributeError: 'int' object has no attribute 'format_of' (raised in models/par"
        in said
    )


def test_a_file_that_is_none_or_of_another_model(
    tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no.py: no such file; give the Python file that has" in refused(tmp_path / "no.py", config, capsys)
    assert ": no such file" in refused(tmp_path, config, capsys)
    other = "--model 'kimi-k2.5-mini' is none of --family "
    assert other in refused(port(tmp_path), Path("kimi-k2.5-mini"), capsys)
    (tmp_path / "json.py").write_text(PORT)
    assert "a module called json is imported already; call the file otherwise" in refused(
        tmp_path / "json.py", config, capsys
    )
