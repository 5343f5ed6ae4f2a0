"""Calls timed in turn, so that what else the machine does meets all of them."""

import argparse
import itertools
import time
from collections.abc import Callable

PAUSE, WARM = 0.01, 0.005  # seconds
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


def in_turn(
    calls: dict[str, Callable[[int], object]], options: argparse.Namespace, *, least: int = 10
) -> dict[str, float]:
    """A quantile of the seconds of each call, taken in turn, ``least`` times or more; a call is told its number.

    Threads that wait by spinning for what went before, as OpenMP's do for some milliseconds, would take a core from the
    next: so each call comes after a pause, and behind 5 ms of its like that are not timed, as kernels come in a step of
    a model. Behind a single one calls of 0.5 ms took 7 to 11 % longer.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    numbers = itertools.count()
    end = time.perf_counter() + options.budget
    while time.perf_counter() < end or len(next(iter(taken.values()))) < least:
        for name, call in calls.items():
            time.sleep(PAUSE)
            warm = time.perf_counter() + WARM
            while True:
                call(next(numbers))
                if time.perf_counter() > warm:
                    break
            start = CLOCKS[options.clock]()
            call(next(numbers))
            taken[name].append(CLOCKS[options.clock]() - start)
    return {name: sorted(times)[int(len(times) * options.quantile)] for name, times in taken.items()}
