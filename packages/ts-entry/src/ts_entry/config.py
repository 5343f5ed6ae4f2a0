"""Everything a user can set, as one typed structure. Options, help text and the keys of ``--config`` come from it."""

import difflib
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from ts_entry.errors import UsageError

GROUPS: Final = {
    "model": "Model",
    "engine": "Engine",
    "memory": "Memory and scheduling",
    "server": "Server",
}


def _option(
    group: str, description: str, *, metavar: str | None = None, alias: str | None = None, **bounds: Any
) -> Meta:
    return Meta(description=description, extra={"group": group, "metavar": metavar, "alias": alias}, **bounds)


class ServeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one server. A number that is 0 by default is chosen at start, and the banner says how."""

    model: Annotated[str, _option("model", "name (kimi-k2.5), hub repository or folder; may be given without --model")]
    weights: Annotated[str | None, _option("model", "checkpoint folder, instead of looking for one", metavar="DIR")] = (
        None
    )
    miniature: Annotated[bool, _option("model", "serve the bundled miniature where no checkpoint is found")] = True
    download: Annotated[
        bool, _option("model", "fetch the checkpoint from the hub where it fits on disk and in memory")
    ] = True
    revision: Annotated[str | None, _option("model", "branch, tag or commit on the hub", metavar="REV")] = None
    load_format: Annotated[
        Literal["auto", "safetensors", "dummy"], _option("model", "dummy makes random weights from config.json")
    ] = "auto"
    tokenizer: Annotated[
        str | None, _option("model", "folder with another tokenizer and chat template", metavar="DIR")
    ] = None
    chat_template: Annotated[str | None, _option("model", "file with another chat template", metavar="FILE")] = None
    served_model_name: Annotated[str | None, _option("model", "name in responses and /v1/models", metavar="NAME")] = (
        None
    )

    device: Annotated[
        Literal["auto", "cpu", "cuda"], _option("engine", "where the model runs; auto is the CPU in this release")
    ] = "auto"
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], _option("engine", "type of activations")] = "auto"
    kv_cache_dtype: Annotated[Literal["auto", "float32", "bfloat16"], _option("engine", "type of the KV cache")] = (
        "auto"
    )
    tensor_parallel_size: Annotated[
        int, _option("engine", "devices that share the model, a worker each", alias="--tp", ge=1, le=1024)
    ] = 1
    ep_size: Annotated[
        int, _option("engine", "parts that experts are dealt to; the devices of a part cut its experts", ge=1, le=1024)
    ] = 1
    threads: Annotated[
        int, _option("engine", "CPU threads of each worker; 0: its share of the cores", ge=0, le=4096)
    ] = 0
    enforce_eager: Annotated[bool, _option("engine", "no captured graphs; this release has none anyway")] = False

    max_model_len: Annotated[int, _option("memory", "longest prompt and answer in tokens; 0: the model's", ge=0)] = 0
    kv_cache_tokens: Annotated[
        int, _option("memory", "tokens that the KV cache holds; 0: as free memory allows", ge=0)
    ] = 0
    block_size: Annotated[
        int, _option("memory", "tokens of a KV page; 0: 16 on the CPU, 64 on CUDA", ge=0, le=1024)
    ] = 0
    max_num_seqs: Annotated[
        int, _option("memory", "requests that run at once; 0: 16 on the CPU, 256 on CUDA", ge=0, le=65536)
    ] = 0
    max_queued: Annotated[
        int, _option("memory", "requests that may wait beyond --max-num-seqs; one more is answered 429", ge=1)
    ] = 256
    chunked_prefill_size: Annotated[
        int, _option("memory", "most tokens of one step; 0: 512 on the CPU, 8192 on CUDA", ge=0, le=1 << 24)
    ] = 0
    min_tps: Annotated[
        float,
        _option("memory", "tokens a second that each answer keeps beside new prompts; 0: no floor", ge=0, le=1e6),
    ] = 0.0
    enable_prefix_caching: Annotated[bool, _option("memory", "reuse the KV pages of known prefixes")] = True

    host: Annotated[str, _option("server", "address to listen on; 0.0.0.0 for every interface")] = "127.0.0.1"
    port: Annotated[int, _option("server", "port; 0 takes a free one", ge=0, le=65535)] = 8000
    api_key: Annotated[
        str | None,
        _option("server", "bearer token that /v1 requires; $TS_API_KEY keeps it out of ps", metavar="KEY"),
    ] = None
    drain_timeout: Annotated[
        float, _option("server", "seconds that running requests get after SIGTERM", metavar="S", ge=0)
    ] = 30.0
    hang_timeout: Annotated[
        float, _option("server", "seconds of silence after which the engine is restarted", metavar="S", ge=1)
    ] = 120.0
    access_log: Annotated[bool, _option("server", "a line for each HTTP request")] = False
    log_level: Annotated[
        Literal["info", "debug"], _option("server", "debug shows what the engine's processes print")
    ] = "info"


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """An option that users know from other servers and that would not do here what it says.

    ``accepts`` are the values that change nothing and are therefore taken; ``reason`` completes a sentence.
    """

    flags: tuple[str, ...]
    reason: str
    accepts: tuple[str, ...] = ()
    is_switch: bool = False


_OWN_PARSER = "the model's own parser is used; leave it out"
_WITH_EXPERTS = "experts are dealt to --ep-size parts and cut within each"
REFUSED: Final = (
    Refused(
        flags=("--data-parallel-size", "--dp"),
        accepts=("1",),
        reason="a server has one copy of the model; start a server for each, or use --tensor-parallel-size",
    ),
    Refused(
        flags=("--pipeline-parallel-size", "--pp"),
        accepts=("1",),
        reason="every device has a part of each layer; use --tensor-parallel-size",
    ),
    Refused(flags=("--attn-tp-size",), reason="attention is cut over all devices; use --tensor-parallel-size"),
    Refused(flags=("--moe-tp-size",), reason=_WITH_EXPERTS),
    Refused(flags=("--enable-expert-parallel",), is_switch=True, reason=_WITH_EXPERTS),
    Refused(flags=("--speculative-config",), reason="speculative decoding is not part of this release"),
    Refused(flags=("--quantization",), reason="the checkpoint's own quantization is used; no other can be chosen"),
    Refused(flags=("--hf-overrides",), reason="config.json is taken as it is; edit a copy and give it as --weights"),
    Refused(flags=("--gpu-memory-utilization",), reason="size the KV cache with --kv-cache-tokens instead"),
    Refused(flags=("--tool-call-parser",), accepts=("auto", "kimi_k2"), reason=_OWN_PARSER),
    Refused(flags=("--reasoning-parser",), accepts=("auto", "kimi_k2"), reason=_OWN_PARSER),
    Refused(flags=("--trust-remote-code",), is_switch=True, reason="Python from a checkpoint is never executed"),
)


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field of ``ServeConfig`` as options and messages need it. ``default`` is ``None`` where there is none."""

    name: str
    kind: type
    choices: tuple[str, ...]
    description: str
    group: str
    metavar: str | None
    alias: str | None
    """A short form that other servers have, too."""
    default: Any

    @property
    def flag(self) -> str:
        """As typed on the command line."""
        return "--" + self.name.replace("_", "-")


def _field(info: msgspec.structs.FieldInfo, annotation: Any) -> Field:
    declared, meta = typing.get_args(annotation)
    members = [member for member in typing.get_args(declared) if member is not type(None)]
    choices = tuple(members) if typing.get_origin(declared) is Literal else ()
    kind = members[0] if isinstance(declared, UnionType) else str if choices else declared
    return Field(
        name=info.name,
        kind=kind,
        choices=choices,
        description=meta.description,
        group=meta.extra["group"],
        metavar=meta.extra["metavar"],
        alias=meta.extra["alias"],
        default=None if info.default is msgspec.NODEFAULT else info.default,
    )


def _fields() -> dict[str, Field]:
    hints = typing.get_type_hints(ServeConfig, include_extras=True)
    return {info.name: _field(info, hints[info.name]) for info in msgspec.structs.fields(ServeConfig)}


FIELDS: Final = _fields()
ALIASES: Final = {field.alias.removeprefix("--"): name for name, field in FIELDS.items() if field.alias}


def build(values: Mapping[str, Any]) -> ServeConfig:
    """The configuration from field values, which may be text as typed (``"8000"``).

    Raises:
        UsageError: a value has the wrong type or is out of range, or the model is missing.
    """
    if not values.get("model"):
        raise UsageError("no model given; try: ts-entry --model kimi-k2.5")
    for name, value in values.items():
        field = FIELDS[name]
        if value == "":
            raise UsageError(f"{field.flag} is empty: give a value or leave it out")
        if field.choices and value not in field.choices:
            raise UsageError(f"{field.flag} {value}: choose {', '.join(field.choices[:-1])} or {field.choices[-1]}")
    try:
        config = msgspec.convert(dict(values), ServeConfig, strict=False)
    except msgspec.ValidationError as error:
        raise _explained(error, values) from None
    if config.tensor_parallel_size % config.ep_size:
        raise UsageError(
            f"--ep-size {config.ep_size}: it must divide --tensor-parallel-size {config.tensor_parallel_size}"
        )
    return config


def _explained(error: msgspec.ValidationError, values: Mapping[str, Any]) -> UsageError:
    message, _, path = str(error).partition(" - at `$.")
    name = path.rstrip("`")
    field = FIELDS.get(name)
    if field is None:
        return UsageError(str(error))
    what = message.replace("`", "").removeprefix("Expected ").split(", got ")[0]
    return UsageError(f"{field.flag} {values[name]}: expected {what}")


def read_file(path: Path) -> dict[str, Any]:
    """Field values of a TOML or JSON file; keys may be written with ``-`` or ``_``.

    Raises:
        UsageError: the file cannot be read, or holds an unknown key or a refused option.
    """
    try:
        text = path.read_text()
        raw = msgspec.json.decode(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: {error}") from None
    if not isinstance(raw, dict):
        raise UsageError(f"--config {path}: expected a table of options")
    values = {}
    for key, value in raw.items():
        name = str(key).replace("-", "_")
        name = ALIASES.get(name, name)
        if name in FIELDS:
            values[name] = value
        elif not refuse(f"--{name.replace('_', '-')}", value):
            raise UsageError(f"--config {path}: unknown key {key}{suggestion(key, FIELDS)}")
    return values


def refuse(flag: str, value: Any) -> bool:
    """True when this is a known option whose value changes nothing; False when the option is unknown.

    Raises:
        UsageError: the option is known, and refused.
    """
    for known in REFUSED:
        if flag in known.flags:
            if value is False or str(value) in known.accepts:
                return True
            given = flag if known.is_switch else f"{flag} {value}"
            raise UsageError(f"{given} is refused: {known.reason}")
    return False


def suggestion(given: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""
