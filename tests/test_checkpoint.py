import os
import signal
from pathlib import Path

import pytest
import torch

from sat3d.checkpoint import (
    Checkpoint,
    append_line,
    check_belongs,
    load_checkpoint,
    save_checkpoint,
    trim_lines,
    uninterrupted,
)
from sat3d.engine import make_optimiser
from sat3d.errors import InputError, MismatchError, Sat3dError
from sat3d.settings import PRESETS


def _state(steps=8):
    source = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 3, generator=source).requires_grad_()
    optimiser = make_optimiser(matrix, PRESETS["paper"])
    for _ in range(steps):
        matrix.grad = torch.randn(5, 3, generator=source)
        optimiser.step()
    return matrix, optimiser, source


def _checkpoint(matrix, optimiser, source):
    return Checkpoint(
        step=8,
        matrix=matrix.detach(),
        optimiser=optimiser.state_dict(),
        random=source.get_state(),
        progress={"best": 0.1, "stale": 2, "held_out": None},
        belongs={"settings": {"lr": 0.01}},
    )


def test_an_optimiser_goes_on_bit_for_bit_from_its_checkpoint(tmp_path):
    matrix, optimiser, source = _state()
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, _checkpoint(matrix, optimiser, source))
    saved = load_checkpoint(path)
    assert saved.step == 8 and saved.progress == {"best": 0.1, "stale": 2, "held_out": None}
    twin = saved.matrix.requires_grad_()
    other = make_optimiser(twin, PRESETS["paper"])
    other.load_state_dict(saved.optimiser)
    drawn = torch.Generator()
    drawn.set_state(saved.random)
    # Seven steps cross a lookahead step, which needs the slow weights.
    for _ in range(7):
        matrix.grad = torch.randn(5, 3, generator=source)
        twin.grad = torch.randn(5, 3, generator=drawn)
        optimiser.step()
        other.step()
    assert torch.equal(matrix, twin)


def test_ranger_descends_from_its_first_step():
    matrix = torch.zeros(3, 2, requires_grad=True)
    optimiser = make_optimiser(matrix, PRESETS["paper"])
    slope = torch.tensor([[1.0, -1.0]]).expand(3, 2)
    for step in range(1, 13):
        before = matrix.detach().clone()
        matrix.grad = slope.clone()
        optimiser.step()
        moved = ((matrix.detach() - before) * slope).sum()
        # Every sixth step looks back halfway to where its six began.
        assert moved < 0 or step % 6 == 0
    assert (matrix.detach() * slope < 0).all()


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty", "keys"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, _checkpoint(*_state()))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        from sat3d.weights import save_weights

        kind = "masks" if damage == "foreign" else "checkpoint"
        save_weights(path, {"matrix": torch.zeros(1)}, {"kind": kind})
    with pytest.raises(InputError, match="Start|readable"):
        load_checkpoint(path)


def test_what_differs_between_two_runs_is_named():
    one = {"settings": {"lr": 0.1, "steps": 3}, "pack": {"attributes": [{"name": "a"}]}}
    two = {"settings": {"lr": 0.1, "steps": 9}, "pack": {"attributes": [{"name": "b"}]}}
    free = frozenset({"settings.steps"})
    check_belongs(one, {**one, "settings": two["settings"]}, free, Path("x"))
    with pytest.raises(MismatchError, match=r"pack.attributes.0.name: 'a' then, 'b' now"):
        check_belongs(one, two, free, Path("x"))


def test_ctrl_c_waits_for_the_end_of_the_block():
    reached = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("end")
    assert reached == ["end"] and signal.getsignal(signal.SIGINT) is before


def test_the_journal_drops_steps_that_the_checkpoint_lacks(tmp_path):
    path = tmp_path / "new" / "training.jsonl"
    for step in (5, 10, 15):
        append_line(path, {"step": step})
    with path.open("a") as file:
        file.write('{"step": 2')
    trim_lines(path, 10)
    assert path.read_text() == '{"step": 5}\n{"step": 10}\n'
    trim_lines(path, 0)
    assert path.read_text() == ""


def test_a_journal_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Sat3dError, match="cannot write"):
        append_line(tmp_path / "file" / "training.jsonl", {})
