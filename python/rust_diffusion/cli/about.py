"""What is installed and what it runs on: the first thing to look at when something is slow."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch

from rust_diffusion import _native
from rust_diffusion.model.device import get_device


def about() -> dict[str, str]:
    """Collect versions, device, threads and what the extension was linked with, as text by name."""
    facts = {
        "rust-diffusion": version("rust-diffusion"),
        "linked with torch": _native.LINKED_TORCH,
        "torch": torch.__version__,
        "Python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "extension": str(_native.__file__),
        "device": get_device(),
        "CPU cores": f"{os.cpu_count()}",
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "kernels": _native.kernels(),
        "torch threads": str(torch.get_num_threads()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "oneDNN": "yes" if torch.backends.mkldnn.is_available() else "no",
        "built for CUDA": torch.version.cuda or "no",
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        facts[f"CUDA device {index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return facts
