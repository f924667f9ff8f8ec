"""Time, memory and counted work, on any device."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(
    work: Callable[[], object], device: torch.device, repeats: int, warm: int = 2
) -> float:
    """Median time of one call, after ``warm`` calls that do not count."""
    times = []
    for k in range(warm + repeats):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        if k >= warm:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def matrix_rate(device: torch.device, side: int | None = None, repeats: int = 20) -> float:
    """bf16 matrix products of the device in FLOP/s: 2 side³ over the best of the repeats.

    Rates depend on the size, so on a GPU several sides are tried and the best one counts.
    """
    sides = [side] if side else ([4096, 8192, 16384] if device.type == "cuda" else [512])
    best = 0.0
    for n in sides:
        one = torch.randn(n, n, device=device).bfloat16()
        two = torch.randn(n, n, device=device).bfloat16()
        best = max(best, 2 * n**3 / _fastest(lambda a=one, b=two: a @ b, device, repeats))
    return best


def _fastest(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    best = float("inf")
    for k in range(repeats + 2):
        synchronise(device)
        began = time.perf_counter()
        work()
        synchronise(device)
        if k >= 2:
            best = min(best, time.perf_counter() - began)
    return best


def flops(work: Callable[[], object]) -> int:
    """Multiply-adds (each counts 2) of the matrix products and convolutions that run."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def forget_peak(device: torch.device) -> None:
    """Start anew to watch memory."""
    gc.collect()  # CUDA graphs hold memory until they are gone
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """Most memory in use since then; None where nobody counts."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / 2**30


def describe(device: torch.device) -> dict[str, Any]:
    """The machine and the versions, as plain JSON values."""
    import platform

    import open_clip

    import sat3d

    found: dict[str, Any] = {
        "device": {"type": device.type, "name": platform.processor() or platform.machine()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "open_clip": open_clip.__version__,
            "sat3d": sat3d.__version__,
        },
        "threads": torch.get_num_threads(),
        "tf32": {
            "matmul": torch.backends.cuda.matmul.allow_tf32,
            "convolutions": torch.backends.cudnn.allow_tf32,
        },
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found["device"] |= {"name": card.name, "memory_gib": round(card.total_memory / 2**30, 1)}
        found["versions"]["cudnn"] = torch.backends.cudnn.version()
    return found
