"""A toy language model whose next token depends on every KV entry before it.

With cache groups each entry also depends on the window of entries before it, and on a state that is carried along.
"""

from collections.abc import Sequence

from ts_scheduler import CacheGroup

VOCAB = 5
MODULUS = (1 << 61) - 1


def entry_of(token: int, position: int, before: int, others: Sequence[int] = ()) -> int:
    """The KV entry of a token: it depends on the whole prefix, and on what the other groups hold."""
    return (before * 1_000_003 + token * 7919 + position * 104_729 + digest(others) + 1) % MODULUS


def entries_of(tokens: list[int]) -> list[int]:
    entries: list[int] = []
    for token in tokens:
        entries.append(entry_of(token, len(entries), entries[-1] if entries else 0))
    return entries


def digest(entries: Sequence[int]) -> int:
    """Depends on every entry, and on their order."""
    state = 0
    for entry in entries:
        state = (state * 31 + entry) % MODULUS
    return state


def sample(entries: Sequence[int]) -> int:
    """The next token."""
    return (digest(entries) >> 7) % VOCAB


def window_entry(entry: int, group: int) -> int:
    """What a window group keeps of a position: through its entry it depends on the whole prefix."""
    return (entry * 69_069 + group) % MODULUS


def advance(state: int, token: int, group: int) -> int:
    """A running state after one more token."""
    return (state * 40_503 + token + group + 1) % MODULUS


def generate_alone(
    prompt: list[int], max_tokens: int, stops: tuple[int, ...], groups: Sequence[CacheGroup] = ()
) -> tuple[list[int], str]:
    """The oracle: no pages, no batching, no cache."""
    entries: list[int] = []
    states = [0] * len(groups)

    def add(token: int) -> None:
        others: list[int] = []
        for index, group in enumerate(groups):
            if group.kind == "window":
                window = entries[max(len(entries) + 1 - group.window, 0) :]
                others.append(digest([window_entry(entry, index) for entry in window]))
            else:
                states[index] = advance(states[index], token, index)
                others.append(states[index])
        entries.append(entry_of(token, len(entries), entries[-1] if entries else 0, others))

    for token in prompt:
        add(token)
    output: list[int] = []
    while True:
        output.append(sample(entries))
        if output[-1] in stops:
            return output, "stop"
        if len(output) == max_tokens:
            return output, "length"
        add(output[-1])
