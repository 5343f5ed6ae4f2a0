"""Where the threads of the native kernels run."""

import os
import time
from collections.abc import Iterator

import pytest
import torch

_native = pytest.importorskip("ts_kernels._native")
if not hasattr(os, "sched_setaffinity"):
    pytest.skip("processors of a thread cannot be set here", allow_module_level=True)

ALL = os.sched_getaffinity(0)
pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="needs two processors")


def tasks() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}


@pytest.fixture
def worker() -> Iterator[int]:
    """The only worker of a pool of two."""
    _native.set_threads(1)
    before = tasks()
    _native.set_threads(2)
    (task,) = tasks() - before
    yield task
    os.sched_setaffinity(0, ALL)
    _native.set_threads(1)
    _native.set_threads(2)


def run_from(processor: int) -> None:
    """A product large enough to be shared, called on ``processor`` when the worker sleeps."""
    os.sched_setaffinity(0, {processor})
    time.sleep(0.05)
    weight, x = torch.ones(512, 512), torch.ones(8, 512)
    packed, out = _native.PackedLinear(weight.data_ptr(), 512, 0, 512, 512), torch.zeros(8, 512)
    packed.run(x.data_ptr(), 512, 8, 0, out.data_ptr(), 512, 0)
    assert (out == 512).all()


def test_a_worker_leaves_the_callers_processor(worker: int) -> None:
    first, second = sorted(ALL)[:2]
    for processor in (first, second, first):
        run_from(processor)
        assert os.sched_getaffinity(worker) == ALL - {processor}


def test_processors_that_were_set_for_a_worker_stay(worker: int) -> None:
    first, second = sorted(ALL)[:2]
    run_from(first)
    os.sched_setaffinity(worker, {first})
    run_from(second)
    run_from(first)
    assert os.sched_getaffinity(worker) == {first}


def test_a_pool_that_fills_all_processors_but_its_callers_fits(worker: int) -> None:
    first = min(ALL)
    _native.set_threads(len(ALL) + 1)  # one worker more than processors are left
    before = {task: os.sched_getaffinity(task) for task in tasks()}
    run_from(first)
    assert {task: os.sched_getaffinity(task) for task in before if task != os.getpid()} == {
        task: processors for task, processors in before.items() if task != os.getpid()
    }
