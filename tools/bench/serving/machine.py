"""What a measurement ran on."""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path


def describe() -> dict[str, str]:
    """Date, processor, cores, the instruction sets that matter here, and versions, for the record beside figures."""
    fields: dict[str, str] = {}
    if (info := Path("/proc/cpuinfo")).exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            fields[key.strip()] = value.strip()
    flags = set(fields.get("flags", "").split())
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": f"{fields.get('model name') or platform.processor()}, family {fields.get('cpu family', '?')}",
        "cores": f"{os.cpu_count()} cores",
        "instruction sets": ", ".join(name for name in known if name in flags) or platform.machine(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }
