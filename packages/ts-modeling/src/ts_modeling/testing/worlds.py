"""Several processes of one worker script."""

import subprocess
import sys
from pathlib import Path


def run_world(worker: Path, checkpoint: Path, world: int, jobs: list[str], output: Path) -> list[list[Path]]:
    """The files that ``world`` processes of ``worker`` write for each job, by rank."""
    output.mkdir()
    commands = [
        [sys.executable, str(worker), str(checkpoint), str(output / "store"), str(rank), str(world), str(output), *jobs]
        for rank in range(world)
    ]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)
    return [[output / f"{number}-{rank}.npy" for rank in range(world)] for number in range(len(jobs))]
