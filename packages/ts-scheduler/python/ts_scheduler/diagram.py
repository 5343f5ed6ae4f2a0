"""``python -m ts_scheduler.diagram [PAGE.md]``: print the request states, or bring a page up to date with them."""

import re
import sys
from pathlib import Path

from ts_scheduler._core import transition_diagram, transition_table

DIAGRAM = re.compile(r"```mermaid\nstateDiagram-v2\n.*?```", re.DOTALL)
TABLE = re.compile(r"\| state \| event → next state \|\n(\|.*\n)*")


def with_states(text: str) -> str:
    """The page with its mermaid state diagram and its table of transitions replaced by those of the code.

    Raises:
        ValueError: the page lacks one of them.
    """
    for what, pattern, made in (
        ("```mermaid block that starts with stateDiagram-v2", DIAGRAM, f"```mermaid\n{transition_diagram()}```"),
        ("table that starts with | state | event → next state |", TABLE, transition_table()),
    ):
        text, count = pattern.subn(lambda _, made=made: made, text, count=1)  # type: ignore[misc]
        if count == 0:
            raise ValueError(f"the page has no {what}; add an empty one")
    return text


def main(arguments: list[str]) -> int:
    """Print diagram and table, or rewrite those in the named page."""
    if not arguments:
        print(f"{transition_diagram()}\n{transition_table()}", end="")
        return 0
    page = Path(arguments[0])
    page.write_text(with_states(page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
