"""The process that compiles: reads a build and a target a line, answers with its figures or what went wrong.

It is a process of its own so that Triton is imported without its interpreter, and so that a compiler that crashes or
hangs takes nothing else down.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from . import Build, _figures
from ._targets import Target
from ._wire import unpack


def main() -> None:
    """Answer each line of standard input by one line of JSON; what the compiler prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            build, target = unpack(line)
            answer: dict[str, Any] = compile_one(build, target).as_json()
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".strip()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def compile_one(build: Build, target: Target) -> _figures.Figures:
    """Compile ``build`` for ``target`` and read its figures."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = find(build.kernel)
    constants = dict(build.constexprs)
    unknown = (set(build.signature) | set(constants)) - set(function.arg_names)
    missing = set(function.arg_names) - set(build.signature) - set(constants)
    if unknown or missing:
        raise ValueError(f"{build.kernel} has no {sorted(unknown)}" if unknown else f"nothing given for {missing}")
    signature = {n: "constexpr" if n in constants else build.signature[n] for n in function.arg_names}
    source = ASTSource(function, signature, constants, _attributes(build, function.arg_names))
    options = {"num_warps": build.num_warps, "num_stages": build.num_stages, **build.options}
    compiled = triton.compile(source, target=GPUTarget(*target.triton), options=options)
    shared = int(compiled.metadata.shared)
    if target.nvidia:
        ptx = compiled.asm["ptx"]
        arch = re.search(r"^\.target\s+(\w+)", ptx, re.M)
        # Triton's wheel has an assembler for each range of architectures, and knows which.
        ptxas = importlib.import_module("triton.backends.nvidia.compiler").get_ptxas(target.triton[1]).path
        return _figures.of_ptx(ptx, arch[1] if arch else target.name, shared, Path(ptxas))
    return _figures.parse_amdgcn(compiled.asm["amdgcn"], shared)


def find(kernel: str) -> Any:
    """The function at "family.module:function" of ts_kernels.ops, or at an absolute module."""
    module, _, name = kernel.partition(":")
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec(f"ts_kernels.ops.{module}"):
            module = f"ts_kernels.ops.{module}"
    return getattr(importlib.import_module(module), name)


def _attributes(build: Build, names: list[str]) -> dict[tuple[int], list[list[object]]]:
    aligned = build.aligned
    if aligned is None:
        aligned = tuple(name for name, kind in build.signature.items() if kind.startswith("*"))
    return {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if name in aligned}


if __name__ == "__main__":
    main()
