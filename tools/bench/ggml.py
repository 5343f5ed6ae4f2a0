"""The few functions of ggml (llama.cpp's kernels) that tools/bench/llama_kernels.py calls, through ctypes.

The library comes from --library FOLDER, from llama-cpp-python (built from source for this machine), or from xllamacpp
(a wheel for AVX2). Shapes here are ggml's: the fastest dimension first.
"""

import ctypes
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

F32, F16, Q4_0, I32, BF16 = 0, 1, 2, 26, 30
FEATURES = ("avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx_int8", "llamafile")
# Functions that return a pointer; ctypes takes results for 32-bit integers otherwise.
POINTERS = {
    *(f"ggml_{name}" for name in ("init", "new_tensor", "new_graph", "mul_mat", "mul_mat_id", "swiglu", "concat")),
    *(f"ggml_{name}" for name in ("permute", "view_3d", "flash_attn_ext", "backend_cpu_init")),
    *(f"ggml_backend_{name}" for name in ("alloc_ctx_tensors", "alloc_ctx_tensors_from_buft", "get_device")),
    *(f"ggml_backend_{name}" for name in ("dev_backend_reg", "reg_get_proc_address")),
}


class InitParams(ctypes.Structure):
    """struct ggml_init_params."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def find(folder: Path | None) -> Path:
    """The CPU library. Raises ``SystemExit`` that says how to come by one."""
    candidates = [folder / "libggml-cpu.so"] if folder else []
    for package, pattern in (("llama_cpp", "lib/libggml-cpu*.so"), ("xllamacpp", "*.so")):
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations or [] if spec else []:
            candidates += sorted(Path(place).glob(pattern))
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise SystemExit("no ggml here: uv run --with llama-cpp-python python -m tools.bench.llama_kernels, or --library")


class Ggml:
    """The library, its CPU backend and so many threads."""

    def __init__(self, path: Path, threads: int) -> None:
        base = path.with_name("libggml-base.so")
        if base.exists():
            ctypes.CDLL(str(base), mode=ctypes.RTLD_GLOBAL)
        self.path, self._library = path, ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        self._base = ctypes.CDLL(str(base)) if base.exists() else self._library
        self.backend = self("ggml_backend_cpu_init")
        self("ggml_backend_cpu_set_n_threads", self.backend, threads)

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Call ``name``: whole numbers go as 64 bit, floats as 32."""
        library = self._library if hasattr(self._library, name) else self._base
        function = getattr(library, name)
        function.restype = ctypes.c_void_p if name in POINTERS else ctypes.c_int64
        return function(*(_argument(a) for a in arguments))

    def context(self) -> int:
        """A context for tensors' descriptions; their data lie in the backend's buffers."""
        made: int = self("ggml_init", InitParams(16 * 2**20, None, True))
        return made

    def tensor(self, context: int, kind: int, *sizes: int) -> int:
        """A tensor without data yet."""
        made: int = self("ggml_new_tensor", context, kind, len(sizes), (ctypes.c_int64 * len(sizes))(*sizes))
        return made

    def repacking(self) -> int | None:
        """The type of buffer in which weights are rearranged for this machine as llama.cpp does, where it has one."""
        registry = self("ggml_backend_dev_backend_reg", self("ggml_backend_get_device", self.backend))
        address = self("ggml_backend_reg_get_proc_address", registry, b"ggml_backend_dev_get_extra_bufts")
        if not address:
            return None
        list_them = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)
        found = list_them(self("ggml_backend_get_device", self.backend))
        first: int | None = found[0] if found else None
        return first

    def fill(self, tensor: int, data: "Tensor | np.ndarray[Any, Any]") -> None:
        """Set a tensor's data from the same bytes in order."""
        if isinstance(data, Tensor):
            data = data.contiguous().view(torch.uint8).numpy()
        data = np.ascontiguousarray(data)
        self("ggml_backend_tensor_set", tensor, ctypes.c_void_p(data.ctypes.data), 0, data.nbytes)

    def read(self, tensor: int, *shape: int) -> Tensor:
        """A tensor's fp32 data, in torch's order of sizes."""
        out = torch.empty(shape)
        self("ggml_backend_tensor_get", tensor, ctypes.c_void_p(out.data_ptr()), 0, out.nbytes)
        return out

    def quantize(self, weight: Tensor) -> "np.ndarray[Any, Any]":
        """``weight`` as Q4_0: blocks of 32, an fp16 scale and 16 bytes each."""
        flat = weight.float().contiguous()
        rows, columns = flat.numel() // flat.shape[-1], flat.shape[-1]
        out = np.empty(rows * columns // 32 * 18, np.uint8)
        source, target = ctypes.c_void_p(flat.data_ptr()), ctypes.c_void_p(out.ctypes.data)
        self("ggml_quantize_chunk", Q4_0, source, target, 0, rows, columns, None)
        return out

    def graph(self, context: int, result: int) -> int:
        """What must be computed for ``result``."""
        made: int = self("ggml_new_graph", context)
        self("ggml_build_forward_expand", ctypes.c_void_p(made), ctypes.c_void_p(result))
        return made

    def compute(self, graph: int) -> None:
        """Run a graph. Raises ``RuntimeError``."""
        status = self("ggml_backend_graph_compute", self.backend, ctypes.c_void_p(graph)) & 0xFFFFFFFF
        if status:
            raise RuntimeError(f"ggml: graph failed with status {status}")

    def features(self) -> Sequence[str]:
        """What it was compiled for."""
        return [name for name in FEATURES if self(f"ggml_cpu_has_{name}") & 0xFFFFFFFF]


def _argument(value: Any) -> Any:
    """Whole numbers as 64 bit, which holds pointers and sizes and narrower ones; floats as 32 bit."""
    if isinstance(value, bool | None) or not isinstance(value, int | float):
        return value
    return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_uint64(value & 2**64 - 1)
