"""Trains the miniature on a CPU: one single-threaded process per core, parameters and gradients in shared memory.

Each step every process computes gradients for its own rows, then updates the parameters it owns from the sum of all
gradients; barriers keep the two phases apart. Nothing is copied between processes. The learning rate, the start of the
multi-token-prediction layer's training and the start of INT4-aware training follow the share of the time budget that
has passed, so a run that is slowed down still ends annealed.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .batches import Ids, Packed, Repeats, Stream, load_docs
from .config import N_RANKS, MiniConfig
from .export import load_miniature, save_checkpoint
from .model import Layer, Miniature, MoE
from .optim import Slot, load_state, make_slots, owner_of, state_dict, update
from .quant import fake_quantize
from .tokenizer import PAD

STATE = "state.safetensors"
MASTER = "master."
EARLIER = "earlier.json"
"""In a run's folder: the results file of the run that it goes on from."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that shapes a run besides the data."""

    deadline: float
    """Unix time at which the learning rate reaches zero."""
    started: float
    workers: int = 2
    row_tokens: int = 512
    micro_rows: int = 4
    micro_steps: int = 1
    """Micro-batches per process and step: 2 * 1 * 4 * 512 = 4096 tokens a step."""
    long_tokens: int = 2048
    long_from: float = 0.75
    long_every: int = 12
    chat_rows: int = 2
    """Rows of chat turns in a micro-batch of ``micro_rows``; the rest is code."""
    repeats_until: float = 0.35
    """Until this share of the budget one code row of a micro-batch is a repeated random sequence: copying has to be
    learned before arguments can be copied from a request into a tool call."""
    chat_from: float = 0.25
    """Before this share of the budget all rows are code: chat turns are easier to learn once Python is."""
    constant_until: float = 0.25
    warmup_steps: int = 40
    mtp_from: float = 0.6
    mtp_rows: int = 2
    int4_from: float = 0.78
    bias_rate: float = 0.004
    seed: int = 20

    def progress(self, now: float) -> float:
        """Return the share of the time budget passed, 0 to 1."""
        return min(1.0, max(0.0, (now - self.started) / (self.deadline - self.started)))

    def lr_scale(self, progress: float, step: int, first: int = 0) -> float:
        """Return the learning rate factor: linear warmup after step ``first``, constant, then linear to zero."""
        decay = min(1.0, (1.0 - progress) / (1.0 - self.constant_until))
        return min((step - first) / self.warmup_steps, 1.0) * max(decay, 0.0)


def _shared(x: Tensor) -> Tensor:
    x.share_memory_()  # type: ignore[no-untyped-call]
    return x


class Shared:
    """Parameters, gradients and counters that all processes map."""

    def __init__(self, model: Miniature, workers: int) -> None:
        self.params = _shared(_flatten(model))
        self.grads = [_shared(torch.zeros_like(self.params)) for _ in range(workers)]
        moes = len(moe_layers(model))
        self.bias = _shared(torch.zeros(moes, model.c.n_routed_experts))
        self.load = _shared(torch.zeros(workers, moes, model.c.n_routed_experts))
        self.sums = _shared(torch.zeros(workers, 8, dtype=torch.float64))
        self.control = _shared(torch.zeros(4, dtype=torch.float64))

    def attach(self, model: Miniature, rank: int) -> None:
        """Make ``model`` a view of the shared memory."""
        offset = 0
        for p in model.parameters():
            size = p.numel()
            p.data = self.params[offset : offset + size].view_as(p)
            p.grad = self.grads[rank][offset : offset + size].view_as(p)
            offset += size
        for i, moe in enumerate(moe_layers(model)):
            moe.bias = self.bias[i]
            moe.load = self.load[rank, i]


def _flatten(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def _weighted(rows: Ids) -> tuple[Tensor, Tensor]:
    ids = torch.from_numpy(rows.astype(np.int64))
    return ids, (ids[:, 1:] != PAD).float()


def moe_layers(model: Miniature) -> list[MoE]:
    """Return the routed blocks, the extra layer's last."""
    layers = [layer for layer in [*model.layers, model.mtp.layer] if isinstance(layer, Layer)]
    return [layer.mlp for layer in layers if isinstance(layer.mlp, MoE)]


def is_int4(name: str) -> bool:
    """Tell whether a parameter is stored as INT4 in the checkpoint."""
    return name.endswith((".gate_up", ".mlp.down"))


class Worker:
    """One training process."""

    def __init__(self, rank: int, recipe: Recipe, shared: Shared, barrier: Barrier, folder: Path) -> None:
        self.rank, self.recipe, self.shared, self.barrier, self.folder = rank, recipe, shared, barrier, folder
        self.model = Miniature(MiniConfig())
        shared.attach(self.model, rank)
        self.slots = make_slots(self.model)
        self.mine = [owner == rank for owner in owner_of(self.slots, recipe.workers)]
        self.master: dict[str, Tensor] = {}
        seed = recipe.seed * 1000 + rank * 100 + int(shared.control[0])
        self.first = int(shared.control[0])
        self.code = Stream(load_docs(folder / "code.npz"), seed=seed)
        self.chat: Packed | None = None
        self.chat_seed = seed
        self.repeats = Repeats(N_RANKS, seed=seed)
        self.valid = self._validation_rows()
        if (folder / f"optim{rank}.safetensors").exists():
            saved = load_file(folder / f"optim{rank}.safetensors")
            self.master = {n.removeprefix(MASTER): t for n, t in saved.items() if n.startswith(MASTER)}
            load_state(self.slots, saved)

    def _validation_rows(self) -> Ids:
        joined = np.concatenate(load_docs(self.folder / "valid.npz"))
        width = self.recipe.row_tokens + 1
        rows = np.stack([joined[i * width : (i + 1) * width] for i in range(len(joined) // width)])
        picks = np.random.default_rng(7).permutation(len(rows))[: 16 * self.recipe.workers]
        return rows[picks[self.rank :: self.recipe.workers]]

    def _batch(self, step: int, progress: float) -> tuple[Tensor, Tensor]:
        """Return ids [B, S + 1] and the weights of their targets [B, S]."""
        r = self.recipe
        if self.chat is None and progress >= r.chat_from and (self.folder / "chat.npz").exists():
            self.chat = Packed(load_docs(self.folder / "chat.npz"), seed=self.chat_seed)
        if progress >= r.long_from and step % r.long_every == 0:
            rows = max(1, r.micro_rows * r.row_tokens // r.long_tokens)
            source = self.chat if self.chat is not None and (step // r.long_every + self.rank) % 2 else self.code
            return _weighted(source.take(rows, r.long_tokens))
        parts = []
        code_rows = r.micro_rows
        if self.chat is not None:
            parts.append(_weighted(self.chat.take(r.chat_rows, r.row_tokens)))
            code_rows -= r.chat_rows
        if progress < r.repeats_until:
            ids, weight = self.repeats.take(r.row_tokens)
            parts.append((torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(weight)))
            code_rows -= 1
        parts.append(_weighted(self.code.take(code_rows, r.row_tokens)))
        return torch.cat([ids for ids, _ in parts]), torch.cat([weight for _, weight in parts])

    def _gradients(self, step: int, progress: float) -> None:
        r, sums = self.recipe, self.shared.sums[self.rank]
        self.shared.grads[self.rank].zero_()
        self.shared.load[self.rank].zero_()
        sums.zero_()
        scale = 1.0 / (r.workers * r.micro_steps * r.micro_rows * r.row_tokens)
        for _ in range(r.micro_steps):
            ids, weight = self._batch(step, progress)
            target = ids[:, 1:]
            hidden = self.model.hidden(ids[:, :-1])
            loss = self.model.head_loss(hidden, target, weight)
            (loss * scale).backward()  # type: ignore[no-untyped-call]
            sums[0] += float(loss.detach())
            sums[1] += float(weight.sum())
            if progress >= r.mtp_from:
                self._mtp_gradients(hidden.detach(), target, weight, scale)

    def _mtp_gradients(self, hidden: Tensor, target: Tensor, weight: Tensor, scale: float) -> None:
        """Train the extra layer alone: trunk, embedding and head get no gradient from it."""
        rows = slice(0, None, max(1, self.recipe.micro_rows // self.recipe.mtp_rows))
        hidden, target, weight = hidden[rows, :-1], target[rows], weight[rows, 1:]
        embedded = self.model.embed(target[:, :-1]).detach()
        states = self.model.mtp(hidden, embedded, self.model.rope(hidden.shape[1]))
        head = self.model.head.weight
        head.requires_grad_(False)
        loss = self.model.head_loss(states, target[:, 1:], weight)
        head.requires_grad_(True)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        self.shared.sums[self.rank][2] += float(loss.detach())
        self.shared.sums[self.rank][3] += float(weight.sum())

    def _update(self, step: int, progress: float) -> None:
        r = self.recipe
        scale = r.lr_scale(progress, step, self.first)
        for slot, mine in zip(self.slots, self.mine, strict=True):
            if not mine or (slot.name.startswith("mtp.") and progress < r.mtp_from):
                continue
            quantized = progress >= r.int4_from and is_int4(slot.name)
            if slot.name in self.master:
                slot.param.data.copy_(self.master[slot.name])
            update(slot, self._summed_gradient(slot), lr_scale=scale, step=step)
            if quantized:
                self.master[slot.name] = slot.param.data.clone()
                slot.param.data.copy_(fake_quantize(slot.param.data))
        if self.rank == 0:
            load = self.shared.load.sum(0)
            error = torch.sign(load.mean(1, keepdim=True) - load)
            self.shared.bias += r.bias_rate * scale * error
            self.shared.bias -= self.shared.bias.mean(1, keepdim=True)

    def _summed_gradient(self, slot: Slot) -> Tensor:
        assert slot.param.grad is not None
        start = slot.param.grad.storage_offset()
        stop = start + slot.param.numel()
        total: Tensor = self.shared.grads[0][start:stop].clone()
        for other in self.shared.grads[1:]:
            total += other[start:stop]
        return total.view_as(slot.param)

    @torch.no_grad()
    def _validate(self) -> None:
        self.model.eval()
        self.shared.sums[self.rank].zero_()
        for start in range(0, len(self.valid), 4):
            ids = torch.from_numpy(self.valid[start : start + 4].astype(np.int64))
            weight = torch.ones(ids[:, 1:].shape)
            hidden = self.model.hidden(ids[:, :-1])
            self.shared.sums[self.rank][0] += float(self.model.head_loss(hidden, ids[:, 1:], weight))
            self.shared.sums[self.rank][1] += weight.numel()
        self.model.train()

    def _save(self, step: int, tokens: float) -> None:
        mine = state_dict(self.slots, self.mine) | {MASTER + name: t for name, t in self.master.items()}
        _replace(mine, self.folder / f"optim{self.rank}.safetensors")
        if self.rank == 0:
            save_state(self.folder, self.shared.params, self.shared.bias, step=step, tokens=tokens)
            save_checkpoint(self.model, self.folder / "model.safetensors")

    def _log(self, entry: dict[str, Any]) -> None:
        if self.rank == 0:
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")

    def run(self) -> None:
        """Train until the deadline."""
        self.model.train()
        control = self.shared.control
        step, tokens, last_save, stop = int(control[0]), float(control[1]), time.time(), False
        while not stop:
            if self.rank == 0:
                control[2] = self.recipe.progress(time.time())
                control[3] = float(time.time() - last_save > 240 or bool(control[2] >= 1.0))
            self.barrier.wait()
            progress, save = float(control[2]), bool(control[3])
            step += 1
            self._gradients(step, progress)
            self.barrier.wait()
            sums = self.shared.sums.sum(0).tolist()
            tokens += sums[1]
            self._update(step, progress)
            self._log_step(step, tokens, progress, sums)
            self.barrier.wait()
            if step % 100 == 0 or progress >= 1.0:
                self._validate()
                self.barrier.wait()
                total = self.shared.sums.sum(0).tolist()
                self._log({"step": step, "tokens": tokens, "time": time.time(), "valid": total[0] / total[1]})
            if save:
                self._save(step, tokens)
                last_save = time.time()
            stop = progress >= 1.0

    def _log_step(self, step: int, tokens: float, progress: float, sums: list[float]) -> None:
        if step % 5:
            return
        load = self.shared.load.sum(0)
        entry = {
            "step": step,
            "tokens": tokens,
            "time": time.time(),
            "progress": progress,
            "loss": sums[0] / max(sums[1], 1),
            "mtp": sums[2] / sums[3] if sums[3] else None,
            "lr": self.recipe.lr_scale(progress, step, self.first),
            "max_load": float((load.amax(1) / load.mean(1).clamp_min(1)).max()),
        }
        self._log(entry)


def save_state(folder: Path, params: Tensor, bias: Tensor, *, step: int, tokens: float) -> None:
    """Write what a run resumes from, beside its optimizer's state."""
    counts = torch.tensor([step, tokens], dtype=torch.float64)
    _replace({"params": params, "bias": bias, "counts": counts}, folder / STATE)


def _replace(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(path)


def continue_from(folder: Path, miniature: Path) -> None:
    """Let a new run in ``folder`` begin with the published weights in ``miniature``; its optimizer starts anew."""
    model = load_miniature(miniature / "model.safetensors")
    biases = torch.stack([moe.bias for moe in moe_layers(model)])
    earlier = json.loads((miniature / "training.json").read_text())
    counts = {key: earlier["training"][source] for key, source in (("step", "steps"), ("tokens", "tokens"))}
    save_state(folder, _flatten(model), biases, **counts)
    (folder / EARLIER).write_text(json.dumps(earlier))


def _worker(rank: int, recipe: Recipe, shared: Shared, barrier: Barrier, folder: Path) -> None:
    torch.set_num_threads(1)
    Worker(rank, recipe, shared, barrier, folder).run()


def train(folder: Path, recipe: Recipe) -> None:
    """Run or resume training in ``folder``, which holds ``code.npz``, ``valid.npz`` and, for chat, ``chat.npz``."""
    model = Miniature(MiniConfig())
    model.init_weights(torch.Generator().manual_seed(recipe.seed))
    shared = Shared(model, recipe.workers)
    if (folder / STATE).exists():
        state = load_file(folder / STATE)
        shared.params.copy_(state["params"])
        shared.bias.copy_(state["bias"])
        shared.control[:2] = state["counts"]
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    context = mp.get_context("spawn")
    barrier = context.Barrier(recipe.workers)
    mp.spawn(  # type: ignore[attr-defined,no-untyped-call]
        _worker, args=(recipe, shared, barrier, folder), nprocs=recipe.workers
    )
