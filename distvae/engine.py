"""The engine class: what a worker computes with. Within one class, outputs are equal to the bit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

import distvae

__all__ = ["engine_class", "has_cuda"]


def has_cuda() -> bool:
    """Whether torch can use a GPU in this process."""
    import torch

    return torch.cuda.is_available()


def engine_class(gpus: float, precision: str) -> dict[str, str]:
    """Versions, device type, CPU capability and precision of this process, for the fingerprint.

    Intra-op threads are not part of it: inference always runs one thread per block of rows.

    Args:
        gpus: GPUs reserved; above 0 the device is the GPU if torch can use one.
        precision: ``fp32`` or ``bf16``.
    """
    import torch

    return {
        "distvae": distvae.__version__,
        "torch": torch.__version__,
        "pyarrow": pa.__version__,
        "numpy": np.__version__,
        "device": "cuda" if gpus > 0 and has_cuda() else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "precision": precision,
    }
