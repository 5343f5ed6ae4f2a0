"""Calls timed in turn, so that what else the machine does meets all of them."""

import argparse
import time
from collections.abc import Callable

PAUSE = 0.01
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


def in_turn(
    calls: dict[str, Callable[[int], object]], options: argparse.Namespace, *, least: int = 10
) -> dict[str, float]:
    """A quantile of the seconds of each call, taken in turn, ``least`` times or more; a call is told its number.

    Threads that wait by spinning for what went before, as OpenMP's do for some milliseconds, would take a core from the
    next: so each call comes after a pause, and behind one that is not timed, as kernels come in a step of a model.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end, number = time.perf_counter() + options.budget, 0
    while time.perf_counter() < end or number < 2 * least:
        for name, call in calls.items():
            time.sleep(PAUSE)
            call(number)
            start = CLOCKS[options.clock]()
            call(number + 1)
            taken[name].append(CLOCKS[options.clock]() - start)
        number += 2
    return {name: sorted(times)[int(len(times) * options.quantile)] for name, times in taken.items()}
