"""``ts-modeling explain``: what a mesh would do, hold and send, from a configuration alone."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import ts_modeling
from ts_modeling.cli import main
from ts_modeling.testing import tiny_config

TP, DP = "attn_tp=4,moe_tp=4", "attn_dp=8,moe_ep=8"
MATRIX = 7168 * 2048
"""Elements of one of the three matrices of an expert of Kimi K2.5."""


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["explain", *arguments]) == 0
    return capsys.readouterr().out


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(explained(capsys, *arguments, "--json"))
    return found


def test_kimi_over_four_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    """61 layers of two all-reduces and the embedding's; the cache of latents is whole on each rank."""
    text = explained(capsys, "--model", "kimi-k2.5", "--mesh", TP)
    assert "mesh: world of 4 (attn_tp=4, dense_tp=4, moe_tp=4); tokens whole between blocks" in text
    assert "layers.2 to layers.60, 59 alike" in text
    assert text.count("mlp.experts  ") == 2, "layers that are alike are told once"
    assert text.count("Partial(sum), one call with the shared expert\n") == 2
    assert "124 collectives (123 all_reduce, 1 all_gather); each rank sends 2,623,488 bytes a token" in text
    assert f"cache: {61 * (512 + 64) * 2:,} bytes on each rank" in text
    assert re.search(r"plans: from 0 tokens: tokens whole .*; from \d+ tokens: tokens cut between blocks", text)


def test_kimi_over_eight_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """Each rank attends to its own tokens; for many of them rows go to their experts, the shared one beside that."""
    text = explained(capsys, "--model", "kimi-k2.5", "--mesh", DP, "--tokens", "8192")
    assert "layers.1 to layers.60, 60 alike" in text
    assert (
        "  * dispatch over attn_dp|moe_ep (8 ranks): 8,316 bytes a token; post_norm -> mlp.experts, begun here" in text
    )
    assert "120 collectives (60 dispatch, 60 combine)" in text
    few = explained(capsys, "--model", "kimi-k2.5", "--mesh", DP)
    assert "120 collectives (60 all_gather, 60 reduce_scatter)" in few


def test_every_layer_is_told_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(capsys, "--model", "kimi-k2.5", "--mesh", TP, "--all")
    assert "alike" not in text
    assert all(f"\nlayers.{number}\n" in text for number in range(61))


def test_two_meshes_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(capsys, "--model", "kimi-k2.5", "--mesh", TP, "--diff", DP, "--tokens", "8192")
    assert (
        text.splitlines()[0]
        == f"a: {TP.replace(',', ', dense_tp=4, ')}; tokens cut between blocks, experts by gathering"
    )
    assert re.search(r"^ranks +4 +8 +2\.00$", text, re.MULTILINE)
    assert re.search(r"^dispatch steps +0 +60$", text, re.MULTILINE)
    assert re.search(r"^KV bytes a token and rank +70,272 +70,272 +1\.00$", text, re.MULTILINE)


def test_figures_as_json_agree_with_counting(capsys: pytest.CaptureFixture[str]) -> None:
    """Routed INT4 experts alone differ between moe_tp and moe_ep ranks; the rest is counted by its difference."""
    one, other = figures(capsys, "--model", "kimi-k2.5", "--mesh", TP, "--diff", "attn_tp=4,moe_ep=4")
    assert one["collective_count"] == other["collective_count"] == 124
    assert one["weight_bytes"] == other["weight_bytes"]
    (alone,) = figures(capsys, "--model", "kimi-k2.5")
    experts = 60 * 384 * 3 * MATRIX * (4 + 16 / 32) / 8
    dense = 61 * (64 * 192 * 1536 + 64 * 256 * 512 + 64 * 128 * 7168) + 3 * 7168 * 18432 + 60 * 3 * MATRIX
    vocabulary = 2 * 163840 * 7168
    cut = experts + 2 * (dense + vocabulary)
    assert alone["weight_bytes"] - one["weight_bytes"] == pytest.approx(cut * 3 / 4, rel=1e-6)
    assert alone["collectives"] == {}


def test_the_cache_of_a_rank_has_its_own_heads_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny_config("llama", num_attention_heads=8, num_key_value_heads=4)))
    one, two = figures(capsys, "--model", str(path), "--diff", "attn_tp=2")
    (eight,) = figures(capsys, "--model", str(path), "--mesh", "attn_tp=4,moe_tp=4", "--kv-dtype", "float32")
    assert one["kv_bytes_per_token"] == 3 * 2 * 4 * 12 * 2
    assert two["kv_bytes_per_token"] == one["kv_bytes_per_token"] // 2
    assert eight["kv_bytes_per_token"] == one["kv_bytes_per_token"] // 4 * 2


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (
            "attn_tp=3,moe_tp=3",
            "heads = 64 does not divide over attn_tp=3; sizes of attn_tp that fit: 1, 2, 4, 8, 16, 32, 64\n",
        ),
        (
            "attn_dp=7,moe_ep=7",
            "does not divide over moe_ep=7; sizes of moe_ep that fit: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, ...\n",
        ),
        ("attn_tp=1024,moe_tp=1024", "does not divide over attn_tp=1024"),
    ],
)
def test_a_mesh_that_does_not_fit_says_what_does(mesh: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--model", "kimi-k2.5", "--mesh", mesh]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["kimi-k25", "Kimi-K2.5", "kimi_k2.5", "kimi-k2-5"])
def test_a_model_that_is_none_is_told_the_nearest(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--model", name]) == 2
    message = f"--model '{name}': no such folder or config.json; did you mean kimi-k2.5? known are kimi-k2.5, "
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "no/such/config.json"])
def test_a_model_that_is_none_and_near_none_is_told_what_to_give(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--model", name]) == 2
    assert "; known are kimi-k2.5, kimi-k2.5-mini, of other models give the config.json" in capsys.readouterr().err


@pytest.mark.parametrize("one", ["--code", "--all"])
def test_forms_that_exclude_one_another_are_refused(one: str, capsys: pytest.CaptureFixture[str]) -> None:
    for other in (["--json"], ["--diff", TP]):
        with pytest.raises(SystemExit):
            main(["explain", "--model", "kimi-k2.5-mini", one, *other])
    assert "--diff compares figures: leave --code and --all out" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As `head` leaves: the plan is longer than a pipe holds."""
    command = [sys.executable, "-m", "ts_modeling.cli", "explain", "--model", "kimi-k2.5", "--all"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_an_interrupt_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ts_modeling.command.build", interrupted)
    assert main(["explain", "--model", "kimi-k2.5-mini"]) == 130
    assert capsys.readouterr() == ("", "ts-modeling: interrupted\n")


def test_an_interrupt_while_torch_is_imported_ends_it_in_one_line(tmp_path: Path) -> None:
    """Also where what is being imported swallows the exception."""
    slow = """
        import sys, time
        print("importing", flush=True)
        try:
            time.sleep(120)
        except BaseException:
            pass
    """
    (tmp_path / "torch.py").write_text(dedent(slow))
    command = [sys.executable, "-m", "ts_modeling.cli", "explain", "--model", "kimi-k2.5"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH", ""))))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=60)
    assert (process.returncode, rest, said) == (130, "", "ts-modeling: interrupted\n")


def test_names_of_the_package_are_found_when_they_are_asked_for() -> None:
    code = "import sys, ts_modeling; assert 'torch' not in sys.modules; assert ts_modeling.Mesh.single().world == 1"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
    with pytest.raises(AttributeError, match="module 'ts_modeling' has no attribute 'load_modle'"):
        _ = ts_modeling.load_modle


@pytest.mark.parametrize("arguments", [["--tokens", "-1"], ["--tokens", "many"], ["--start", "1.5"]])
def test_bad_numbers_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explain", "--model", "kimi-k2.5", *arguments])
    assert "is no whole number" in capsys.readouterr().err


def test_the_documentation_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "modeling" / "compiler.md").read_text()
    command, shown = re.findall(r"`ts-modeling (explain [^`]*)`, in part.*?```\n(.*?)```", page, re.DOTALL)[0]
    assert shown in explained(capsys, *command.split()[1:])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if " GiB |" in line]
    assert len(rows) == 3
    for mesh, _, counts, sent, weights in rows:
        (plan,) = figures(capsys, "--model", "kimi-k2.5", "--mesh", mesh)
        told = {kind.replace("-", "_"): int(count) for count, kind in re.findall(r"(\d+) ([a-z-]+)", counts)}
        assert told == plan["collectives"]
        assert f"{plan['bytes_per_token']:,.0f}" == sent
        assert f"{plan['weight_bytes'] / 2**30:.0f} GiB" == weights
