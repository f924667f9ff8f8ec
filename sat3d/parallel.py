"""One run on several processes, GPUs or machines, started by ``torchrun``.

Without ``torchrun`` every function here gives back what it was given and imports nothing. With it,
Accelerate sets the processes up, and all of them hold the same matrix: each measures its part of
every batch, and sums are exchanged. Random draws are made whole by each, so that they are those of
a single process.
"""

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sat3d.errors import Sat3dError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Item = TypeVar("Item")
_MARK = ".sat3d-lost"
_PATIENCE = timedelta(hours=2)
"""How long one process waits for another; processes that end are noticed at once."""
_told_to_stop = threading.Event()
_broken = threading.Event()


class Lost(Sat3dError):
    """Another process of this run is gone, so that it cannot go on."""


def world() -> int:
    """How many processes work on this run; 1 unless ``torchrun`` started it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes files and tells what happens."""
    return rank() == 0


def share(items: Sequence[Item]) -> Sequence[Item]:
    """What this process does of a list: every item whose place is its rank modulo the number."""
    return items[rank() :: world()]


def part(count: int) -> slice:
    """What this process does of rows that are to stay neighbours; may be empty."""
    return slice(count * rank() // world(), count * (rank() + 1) // world())


def local_device(device: str) -> str:
    """The device by name that is this process's own: 'auto' and 'cuda' become one GPU each."""
    if world() == 1 or device not in ("auto", "cuda"):
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{int(os.environ['LOCAL_RANK']) % count}" if count else device


def join(device: "torch.device") -> None:
    """Meet the other processes before the first exchange; later calls do nothing new.

    From then on SIGTERM ends this process at its next exchange or step. Raises UsageError, Lost.
    """
    if world() == 1:
        return
    try:
        from accelerate import PartialState
    except ImportError:
        raise UsageError(
            f"{world()} processes need the package 'accelerate'. Install it with: "
            "pip install 'sat3d[multi]'."
        ) from None
    if threading.current_thread() is threading.main_thread():
        # torchrun ends the processes that remain this way; the default would end them unsaved.
        signal.signal(signal.SIGTERM, lambda number, frame: _told_to_stop.set())
    with _exchange():
        PartialState(cpu=device.type == "cpu", timeout=_PATIENCE)
    atexit.register(_leave)


def _leave() -> None:
    """Say goodbye, which after a loss nobody would answer."""
    from accelerate import PartialState

    if not _broken.is_set():
        PartialState().destroy_process_group()


def summed(values: "Tensor") -> "Tensor":
    """The sum over all processes; the same bits on each."""
    if world() == 1:
        return values
    from accelerate.utils import reduce

    with _exchange():
        total: Tensor = reduce(values.detach(), reduction="sum")
    return total


def gathered(values: "Mapping[str, Tensor]", device: "torch.device") -> "dict[str, Tensor]":
    """The rows of all processes by name, those of rank 0 first, on ``device``.

    A process without rows may give {}. Tensors of one name agree in all but their first size.
    """
    if world() == 1:
        return dict(values)
    import torch
    from accelerate.utils import gather, gather_object

    with _exchange():
        shapes = gather_object([{k: (tuple(x.shape), x.dtype) for k, x in values.items()}])
        found = {}
        for key in dict.fromkeys(name for one in shapes for name in one):
            counts = [one[key][0][0] if key in one else 0 for one in shapes]
            shape, dtype = next(one[key] for one in shapes if key in one)
            # All must send as much: the rest is cut off again below.
            padded = torch.zeros((max(counts), *shape[1:]), dtype=dtype, device=device)
            if key in values:
                padded[: len(values[key])] = values[key]
            pieces = gather(padded[None])
            found[key] = torch.cat([x[:n] for x, n in zip(pieces, counts, strict=True)])
    return found


def gathered_objects(values: Sequence[Item]) -> list[Item]:
    """Small objects of all processes, those of rank 0 first."""
    if world() == 1:
        return list(values)
    from accelerate.utils import gather_object

    with _exchange():
        return list(gather_object(list(values)))


def decided(action: Callable[[], Item]) -> Item:
    """What the main process finds, on every process; its Sat3dError is raised on every one."""
    if world() == 1:
        return action()
    from accelerate.utils import broadcast_object_list

    box: list[tuple[Item | None, Sat3dError | None]] = [(None, None)]
    if is_main():
        try:
            box = [(action(), None)]
        except Sat3dError as error:
            box = [(None, error)]
    with _exchange():
        broadcast_object_list(box)
    value, failure = box[0]
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value]  # without an error there is a value


def check() -> None:
    """Between two steps: raise Lost if this process was told to stop."""
    if _told_to_stop.is_set():
        raise Lost("this process was told to stop, as happens when another one is lost.")


def clear_mark(folder: Path | None) -> None:
    """Forget a loss of before."""
    if folder is not None and is_main() and (folder / _MARK).exists():
        (folder / _MARK).unlink(missing_ok=True)


def spoken(lost: Lost, folder: Path | None, save: Callable[[], str]) -> BaseException:
    """The error to raise after a loss. One of the processes that remain saves and tells.

    ``save`` does what can be done and says what that was; the other processes end in silence.
    """
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _MARK).touch(exist_ok=False)
    except FileExistsError:
        return SystemExit(1)
    except OSError:  # a full disk is told when saving
        pass
    return Lost(f"{lost} {save()}")


@contextmanager
def _exchange() -> Iterator[None]:
    """Raise Lost if an exchange fails, which it does when another process is gone."""
    import torch

    check()
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _broken.set()
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Lost(f"another process of this run was lost ({line[:120]}).") from None
