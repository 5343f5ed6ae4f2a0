"""Calls timed in turn, so that what else the machine does meets all of them."""

import argparse
import itertools
import time
from collections.abc import Callable

PAUSE, WARM, TURN = 0.01, 0.005, 0.05  # seconds
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


def in_turn(
    calls: dict[str, Callable[[int], object]], options: argparse.Namespace, *, least: int = 10
) -> dict[str, float]:
    """A quantile of the seconds of each call; they take turns of 50 ms, ``least`` or more; a call is told its number.

    Threads that wait by spinning for what went before, as OpenMP's do for some milliseconds, would take a core from the
    next: so each turn comes after a pause, and behind 5 ms of its like that are not timed, as kernels come in a step of
    a model. Behind a single call one of 0.5 ms took 7 to 11 % longer.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    numbers, clock = itertools.count(), CLOCKS[options.clock]
    end, turns = time.perf_counter() + options.budget, 0
    while time.perf_counter() < end or turns < least:
        for name, call in calls.items():
            time.sleep(PAUSE)
            begin = time.perf_counter()
            call(next(numbers))
            while time.perf_counter() < begin + WARM:
                call(next(numbers))
            begin = time.perf_counter()
            while True:
                start = clock()
                call(next(numbers))
                taken[name].append(clock() - start)
                if time.perf_counter() > begin + TURN:
                    break
        turns += 1
    return {name: sorted(times)[int(len(times) * options.quantile)] for name, times in taken.items()}
