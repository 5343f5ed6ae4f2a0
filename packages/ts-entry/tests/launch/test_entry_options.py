"""The command line and the configuration file."""

import errno
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ts_entry import launcher
from ts_entry.cli import main
from ts_entry.config import FIELDS, REFUSED, ServeConfig, build
from ts_entry.errors import UsageError
from ts_entry.launcher import mesh_of
from ts_entry.options import parse, parser
from ts_modeling.placement import Mesh


def parsed(line: str) -> ServeConfig:
    return parse(shlex.split(line), version="1")


def test_model_may_be_positional_or_an_option() -> None:
    assert parsed("kimi-k2.5") == parsed("--model kimi-k2.5") == parsed("kimi-k2.5 --model kimi-k2.5")


def test_defaults_are_what_users_expect() -> None:
    config = parsed("m")
    assert (config.host, config.port, config.drain_timeout) == ("127.0.0.1", 8000, 30.0)
    assert config.miniature
    assert config.enable_prefix_caching


def test_values_get_their_types() -> None:
    config = parsed("m --port 81 --no-miniature --max-num-seqs=3 --drain-timeout 1.5 --dtype float32 --api-key k")
    assert (config.port, config.miniature, config.max_num_seqs) == (81, False, 3)
    assert (config.drain_timeout, config.dtype, config.api_key) == (1.5, "float32", "k")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["--model kimi-k2.5"]),
        ("a b", ["unexpected argument b"]),
        ("a --model b", ["two models", "a", "b"]),
        ("m --prot 1", ["--prot", "did you mean --port?"]),
        ("m --max-model-length=1", ["--max-model-length", "--max-model-len"]),
        ("m --zzzzzz", ["unknown option --zzzzzz", "--help"]),
        ("m --port", ["--port"]),
        ("m --port x", ["--port x", "int"]),
        ("m --port 70000", ["--port 70000", "65535"]),
        ("m --port -1", ["--port -1"]),
        ("m --dtype fp8", ["--dtype fp8", "auto, float32 or bfloat16"]),
        ("m --max-queued 0", ["--max-queued 0", "1"]),
        ("m --min-tps -1", ["--min-tps -1", "0"]),
        ("m --api-key ''", ["--api-key is empty"]),
        ("m --drain-timeout nan", ["--drain-timeout nan"]),
        ("m --tp 0", ["--tensor-parallel-size 0", "1"]),
        ("m --tp 4 --ep-size 3", ["--ep-size 3", "divide --tensor-parallel-size 4"]),
        ("m --ep-size 2", ["--ep-size 2", "divide --tensor-parallel-size 1"]),
        ("m --dp 2", ["--data-parallel-size 2 is refused", "a server for each"]),
        ("m --moe-tp-size 2", ["--moe-tp-size 2 is refused", "--ep-size"]),
        ("m --quantization fp8", ["refused", "checkpoint's own"]),
        ("m --speculative-config '{}'", ["refused", "speculative"]),
        ("m --enable-expert-parallel", ["--enable-expert-parallel is refused"]),
        ("m --trust-remote-code", ["refused", "never executed"]),
        ("m --config /nonexistent.toml", ["/nonexistent.toml", "No such file"]),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    line: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(line)) == 2
    error = capsys.readouterr().err
    assert error.startswith("ts-entry: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error


@pytest.mark.parametrize("option", [option for option in REFUSED if option.accepts], ids=lambda option: option.flags[0])
def test_a_known_option_that_changes_nothing_is_taken(option: Any) -> None:
    for flag in option.flags:
        assert parsed(f"m {flag} {option.accepts[0]}") == parsed("m")


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_config_file_has_the_same_fields_and_the_command_line_wins(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"serve{suffix}"
    values = {"model": "m", "port": 1, "max-num-seqs": 4, "enable_prefix_caching": False, "tensor-parallel-size": 1}
    toml = "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    path.write_text(json.dumps(values) if suffix == ".json" else toml)
    config = parsed(f"--config {path} --port 2")
    assert (config.model, config.port, config.max_num_seqs, config.enable_prefix_caching) == ("m", 2, 4, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", ["unknown key prot", "port"]),
        ("port = 'x'", ["--port x"]),
        ("dp = 2", ["refused"]),
        ("tp = 'two'", ["--tensor-parallel-size two"]),
        ("port = ", ["--config"]),
        ("port = [1]", ["--port"]),
        ("miniature = 'perhaps'", ["--miniature"]),
    ],
)
def test_config_file_mistakes(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(f"model = 'm'\n{text}\n")
    with pytest.raises(UsageError) as caught:
        parsed(f"--config {path}")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("line", "mesh"),
    [
        ("m", ""),
        ("m --tp 4", "attn_tp=4,moe_ep=1,moe_tp=4"),
        ("m --tensor-parallel-size 4 --ep-size 4", "attn_tp=4,moe_ep=4,moe_tp=1"),
        ("m --tp=8 --ep-size=2", "attn_tp=8,moe_ep=2,moe_tp=4"),
    ],
)
def test_the_mesh_of_workers(line: str, mesh: str) -> None:
    config = parsed(line)
    assert mesh_of(config) == mesh
    if mesh:
        assert Mesh.parse(mesh).world == config.tensor_parallel_size


def test_a_file_may_say_it_the_short_way(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text("model = 'm'\ntp = 2\nep-size = 2\n")
    assert parsed(f"--config {path}") == parsed("m --tp 2 --ep-size 2")


def test_help_is_short_grouped_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for field in FIELDS.values():
        shown = f"--[no-]{field.flag[2:]}" if field.kind is bool else field.flag
        assert shown in text
        assert len(field.description) < 90
    assert text.count("\n") < 65
    assert max(map(len, text.splitlines())) <= 118


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("ts-entry ")


def test_every_field_is_documented_and_has_an_option() -> None:
    known = {action.dest for action in parser("1")._actions}
    for name, field in FIELDS.items():
        assert name in known
        assert field.description


_texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)


@given(st.lists(st.one_of(_texts, st.sampled_from([field.flag for field in FIELDS.values()])), max_size=6))
def test_any_command_line_is_parsed_or_refused(arguments: list[str]) -> None:
    try:
        config = parse(arguments, version="1")
    except UsageError:
        return
    except SystemExit:
        assert {"-h", "--help", "--version"} & set(arguments)
    else:
        assert config.model


@given(
    port=st.integers(0, 65535),
    seqs=st.integers(0, 1000),
    caching=st.booleans(),
    dtype=st.sampled_from(["auto", "float32", "bfloat16"]),
    name=st.one_of(st.none(), st.from_regex(r"[a-z][a-z0-9.-]{0,9}", fullmatch=True)),
)
def test_what_is_typed_is_what_is_configured(port: int, seqs: int, caching: bool, dtype: str, name: str | None) -> None:
    line = ["m", f"--port={port}", "--max-num-seqs", str(seqs), "--dtype", dtype]
    line.append("--enable-prefix-caching" if caching else "--no-enable-prefix-caching")
    line += ["--served-model-name", name] if name else []
    typed = parse(line, version="1")
    values = {"model": "m", "port": port, "max_num_seqs": seqs, "dtype": dtype, "enable_prefix_caching": caching}
    assert typed == build({**values, "served_model_name": name} if name else values)


def test_what_the_system_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: ServeConfig) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "/x/worker-0.json")

    monkeypatch.setattr(launcher, "launch", full)
    assert main(["kimi-k2.5"]) == 1
    assert capsys.readouterr().err == "ts-entry: /x/worker-0.json: No space left on device\n"
