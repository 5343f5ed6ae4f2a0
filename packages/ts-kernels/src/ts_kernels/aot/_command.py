"""``ts-kernels aot``."""

import argparse
from typing import Any

from .. import output
from ..arguments import filled, output_file
from ..errors import BuildError
from ..tuning import triton_version
from . import _report, _runner, _targets, collect, families


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("aot", help="compile every Triton kernel without a GPU; gates on spills and room")
    parser.add_argument(
        "--target", type=filled, default=",".join(_targets.DEFAULT), help="architectures, separated by commas"
    )
    parser.add_argument("--only", default="", help="builds whose name starts so, such as norm or mla.decode")
    parser.add_argument("--no-cache", action="store_true", help="compile again what is known")
    output.add(parser)
    parser.add_argument("--markdown", type=output_file, metavar="FILE", help="write the table there")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    _runner.require_triton()
    targets = _targets.parse(options.target)
    builds = collect(options.only)
    if not builds:
        raise BuildError(f"no build starts with {options.only!r}; there are those of {', '.join(families())}")
    results = []
    for result in _runner.run(builds, targets, None if options.no_cache else _runner.cache_folder()):
        results.append(result)
        print(_report.line(result), flush=True)
    failed = sum(bool(result.problems) for result in results)
    print(f"{len(results)} compiled, {failed} failed (triton {triton_version()})")
    results.sort(key=lambda result: (result.build.name, result.target.name))
    if options.json:
        found = [result.as_json() for result in results]
        output.write(options.json, {"triton": triton_version(), "results": found})
    if options.markdown:
        options.markdown.write_text(_report.markdown(results, targets, triton_version()))
    return 1 if failed else 0
