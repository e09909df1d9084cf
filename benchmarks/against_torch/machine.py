"""What the figures of a run depend on: the machine, and the versions of everything that took part."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy
import torch

import gpulstm

ROOT = Path(__file__).resolve().parent.parent.parent
SMI_FIELDS = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "clocks.max.mem",
    "power.limit",
    "temperature.gpu",
)


def machine(device: str) -> dict[str, Any]:
    """The processor, and the GPU if the run is on one."""
    found = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    return found | ({"gpu": gpu_state()} if device == "gpu" else {})


def gpu_state() -> dict[str, str] | None:
    """What nvidia-smi says about the GPU now, units included; None where there is no nvidia-smi."""
    line = _output("nvidia-smi", f"--query-gpu={','.join(SMI_FIELDS)}", "--format=csv,noheader", "--id=0")
    return None if line is None else dict(zip(SMI_FIELDS, (value.strip() for value in line.split(",")), strict=False))


def versions(device: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "gpulstm": gpulstm.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "torch": torch.__version__,
    }
    if device == "gpu":
        import cupy

        found["cupy"] = cupy.__version__
        found["cuda of torch"] = torch.version.cuda
        found["cuda of cupy"] = cupy.cuda.runtime.runtimeGetVersion()
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def commit() -> str | None:
    """The checkout's commit, with "-dirty" where files differ from it; None without git.

    Results are not what is measured: a run that has written some is still of that commit.
    """
    found = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    code = (".", ":(exclude)benchmarks/results")
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", "--", *code)
    return f"{found}-dirty" if found and changed else found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _output(*command: str) -> str | None:
    """The first line that a command prints; None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None
