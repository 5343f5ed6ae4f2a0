"""The real scheduler process and the real worker process, with the entry played by the test.

The tokens that come out are those of the checkpoint under transformers, across the prefix cache, preemption and aborts.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import zmq
from ts_modeling.testing import oracle, oracle_logits, tiny_config, write_checkpoint, write_tiny
from ts_protocol import Channel, RuntimeDirectory, greet, hello
from ts_protocol.config import SchedulerConfig, WorkerConfig
from ts_protocol.messages import (
    Abort,
    ChildToSupervisor,
    Failed,
    Ready,
    Rejected,
    SamplingParams,
    SchedulerToEntry,
    Submit,
    TokenBatch,
    Welcome,
)

PATIENCE = 120.0
ANSWER = 10


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


class Engine:
    """The scheduler, a worker for each rank, and the entry's end."""

    def __init__(self, directory: RuntimeDirectory, checkpoint: Path, *, ranks: int = 1) -> None:
        address = directory.address
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        control = self.context.socket(zmq.PULL)
        control.bind(address("control"))
        self.control: Channel[Any] = Channel(control, incoming=ChildToSupervisor)
        scheduler = SchedulerConfig(
            entry_address=address("entry"),
            worker_addresses=tuple(address(f"worker-{rank}") for rank in range(ranks)),
            control_address=address("control"),
            fingerprint="tiny",
            chunk_tokens=48,
            max_queued=16,
        )
        worker = WorkerConfig(
            rank=0,
            world_size=ranks,
            checkpoint=str(checkpoint),
            device="cpu",
            dtype="float32",
            kv_cache_dtype="auto",
            load_format="auto",
            scheduler_address=address("worker-0"),
            control_address=address("control"),
            fingerprint="tiny",
            page_size=16,
            kv_cache_tokens=16 * 20,  # less than the requests together need: some are preempted
            max_num_seqs=6,
            max_model_len=0,
            chunk_tokens=48,
            mesh=f"attn_tp={ranks},moe_tp={ranks}",
            rendezvous=f"127.0.0.1:{free_port()}",
            threads=1,
        )
        workers = [
            msgspec.structs.replace(worker, rank=rank, scheduler_address=scheduler.worker_addresses[rank])
            for rank in range(ranks)
        ]
        self.children = [
            *(self._start(f"ts_worker-{w.rank}", "ts_runtime", directory.path, w) for w in workers),
            self._start("ts_scheduler", "ts_scheduler", directory.path, scheduler),
        ]
        self.entry: Channel[Any] = Channel.connect(self.context, address("entry"), incoming=SchedulerToEntry)
        self.tokens: dict[int, list[int]] = {}
        self.cached: dict[int, int] = {}
        self.finished: dict[int, str] = {}

    def _start(self, name: str, module: str, folder: Path, config: msgspec.Struct) -> "subprocess.Popen[bytes]":
        path = folder / f"{name}.json"
        path.write_bytes(msgspec.json.encode(config))
        return subprocess.Popen([sys.executable, "-m", module, str(path)], start_new_session=True)

    def meet(self) -> Welcome:
        """Wait until all processes serve, and shake hands."""
        ready: set[tuple[str, int]] = set()
        while len(ready) < len(self.children):
            assert self.control.poll(PATIENCE), f"only {ready} are ready"
            message = self.control.recv()[0]
            assert not isinstance(message, Failed), message
            if isinstance(message, Ready):
                ready.add((message.role, message.rank))
        return greet(self.entry, hello(role="entry", fingerprint="tiny"), expect="scheduler", timeout=PATIENCE)

    def submit(self, request_id: int, prompt: list[int], **sampling: Any) -> None:
        self.tokens[request_id] = []
        message = Submit(request_id, ANSWER, (), SamplingParams(**sampling))
        self.entry.send(message, np.array(prompt, np.int32))

    def listen(self, *request_ids: int) -> None:
        """Until these have finished."""
        while any(request_id not in self.finished for request_id in request_ids):
            assert self.entry.poll(PATIENCE), f"finished {self.finished} of {request_ids}"
            message = self.entry.recv()[0]
            assert not isinstance(message, Rejected), message
            for output in message.outputs if isinstance(message, TokenBatch) else []:
                self.tokens[output.request_id].extend(output.tokens)
                self.cached[output.request_id] = output.cached_tokens
                if output.finish:
                    self.finished[output.request_id] = output.finish

    def close(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
        self.entry.close()
        self.control.close()
        self.context.term()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(made)
    return made


@pytest.fixture
def engine(checkpoint: Path) -> Iterator[Engine]:
    with RuntimeDirectory() as directory:
        made = Engine(directory, checkpoint)
        yield made
        made.close()


def assert_greedy(reference: Any, prompts: list[list[int]], answers: list[list[int]]) -> None:
    """Each answered token is transformers' argmax at its place, which by induction makes it the greedy answer."""
    for prompt, tokens in zip(prompts, answers, strict=True):
        assert len(tokens) == ANSWER
        best = oracle_logits(reference, prompt + tokens)[len(prompt) - 1 : -1].argmax(-1)
        assert tokens == best.tolist()


def prompts_of(lengths: tuple[int, ...]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(320, (length,), generator=generator).tolist() for length in lengths]


def serve_two_turns(engine: Engine, reference: Any, *, cached: int) -> None:
    """Five requests at once, more than the cache holds, and a second turn of one of them."""
    prompts = prompts_of((70, 33, 100, 64, 21))
    for request_id, prompt in enumerate(prompts):
        engine.submit(request_id, prompt)
    engine.listen(*range(5))
    assert_greedy(reference, prompts, [engine.tokens[request_id] for request_id in range(5)])
    turn = prompts[3] + engine.tokens[3] + prompts[4]
    engine.submit(5, turn)
    engine.listen(5)
    assert engine.cached[5] >= cached, "the second turn starts from what the first left"
    assert_greedy(reference, [turn], [engine.tokens[5]])


def test_requests_through_both_processes(engine: Engine, checkpoint: Path) -> None:
    welcome = engine.meet()
    assert welcome.kv is not None
    assert (welcome.kv.num_pages, welcome.kv.vocab_size) == (20, 320)
    serve_two_turns(engine, oracle(checkpoint), cached=64)

    prompts = prompts_of((70, 33, 100))
    engine.submit(6, prompts[0], temperature=1.0, seed=5)
    engine.submit(7, prompts[2])
    engine.entry.send(Abort(7))
    engine.listen(6)
    engine.submit(8, prompts[0], temperature=1.0, seed=5)
    engine.submit(9, prompts[1], temperature=1.0, seed=5)
    engine.listen(8, 9)
    assert engine.tokens[6] == engine.tokens[8]

    for child in reversed(engine.children):  # the scheduler first: a worker that has gone is an error to it
        child.terminate()
        assert child.wait(30) == 0


def test_requests_through_two_ranks(checkpoint: Path) -> None:
    """Tokens of any temperature are those of a request alone: candidates and gathered logits in turn."""
    prompts = prompts_of((70, 33, 100))
    with RuntimeDirectory() as directory:
        engine = Engine(directory, checkpoint, ranks=2)
        try:
            engine.meet()
            serve_two_turns(engine, oracle(checkpoint), cached=64)
            hot = {6: {"seed": 5}, 7: {"seed": 6, "top_k": 9}, 8: {"seed": 7, "top_p": 0.9}}
            for request_id, how in hot.items():
                engine.submit(request_id, prompts[request_id - 6], temperature=1.0, **how)
            engine.listen(*hot)
            for request_id, how in hot.items():
                engine.submit(request_id + 3, prompts[request_id - 6], temperature=1.0, **how)
                engine.listen(request_id + 3)
                assert engine.tokens[request_id + 3] == engine.tokens[request_id]
            for child in reversed(engine.children):
                child.terminate()
                assert child.wait(30) == 0
        finally:
            engine.close()


def test_running_states_through_both_processes(tmp_path: Path) -> None:
    """A second turn starts from a checkpoint of the state: the last one that lies on a page's end."""
    reference = write_tiny(tmp_path, tiny_config("qwen3_5"))
    with RuntimeDirectory() as directory:
        engine = Engine(directory, tmp_path)
        try:
            welcome = engine.meet()
            assert welcome.kv is not None
            (group,) = welcome.kv.groups
            assert (group.kind, group.checkpoint_blocks > 1) == ("state", True)
            serve_two_turns(engine, reference, cached=48)
        finally:
            engine.close()


@pytest.mark.parametrize("victim", ["worker", "scheduler"])
def test_the_survivor_of_a_killed_process_does_not_outlive_the_supervisors_signal(engine: Engine, victim: str) -> None:
    engine.meet()
    worker, scheduler = engine.children
    killed, other = (worker, scheduler) if victim == "worker" else (scheduler, worker)
    killed.kill()
    killed.wait()
    if victim == "worker":
        assert other.wait(30) == 1, "the scheduler says that its worker has gone"
    else:
        time.sleep(1.0)
        assert other.poll() is None, "a worker waits for its supervisor to decide"
        other.terminate()
        assert other.wait(30) == 0
