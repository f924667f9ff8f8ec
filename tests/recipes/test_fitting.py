"""The shared loop: schedules, checkpoints, and gradients that are not finite."""

from pathlib import Path

import pytest
import torch
from torch import nn

from recipes import fitting, worlds
from recipes.checkpoints import KEPT, History
from recipes.fitting import PATIENCE, Options, fit


def settings(folder: Path, steps: int) -> Options:
    return Options(
        worlds.load("cars"), folder / "x", folder, "cpu", 0, steps, 5.0, 4, 1e-2, 8, 8, False, {}
    )


class Falling:
    """Squares of a weight; not a number on the calls named."""

    def __init__(self, bad: range | set[int]) -> None:
        torch.manual_seed(0)
        self.network, self.calls, self.bad = nn.Linear(3, 1), 0, bad

    def __call__(self, progress: float) -> tuple[torch.Tensor, dict]:
        assert 0 <= progress < 1
        self.calls += 1
        loss = self.network.weight.square().sum()
        return (loss * float("nan") if self.calls in self.bad else loss), {}


def test_a_step_with_a_gradient_that_is_not_finite_is_skipped(tmp_path: Path) -> None:
    loss = Falling({3, 4})
    took = fit(loss.network, loss, settings(tmp_path, 8), "x")
    assert (took.steps, took.skipped, loss.calls) == (8, 2, 10)
    assert loss.network.weight.isfinite().all()


def test_a_run_that_went_wrong_goes_back_to_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "SAVE_EVERY", 0.0)
    loss = Falling(range(6, 6 + PATIENCE))
    took = fit(loss.network, loss, settings(tmp_path, 9), "x")
    assert (took.steps, took.skipped) == (9, PATIENCE)
    assert loss.network.weight.isfinite().all()


def test_a_loss_that_is_never_finite_ends_the_run(tmp_path: Path) -> None:
    loss = Falling(range(1, 10**6))
    with pytest.raises(RuntimeError, match="not finite"):
        fit(loss.network, loss, settings(tmp_path, 9), "x")


def test_a_finished_run_says_so_at_once_and_keeps_what_it_was_told_to_keep(tmp_path: Path) -> None:
    loss, average = Falling(set()), nn.Linear(3, 1)
    wanted, called = average.weight.detach().clone(), []
    fit(loss.network, loss, settings(tmp_path, 4), "x", after=lambda: called.append(1),
        beside={"average": average})  # fmt: skip
    assert len(called) == 4
    nn.init.zeros_(average.weight)
    again = Falling(set())
    took = fit(again.network, again, settings(tmp_path, 4), "x", beside={"average": average})
    assert (took.steps, again.calls) == (4, 0)
    assert torch.equal(average.weight, wanted)
    assert torch.equal(again.network.weight, loss.network.weight)


def test_the_newest_whole_and_finite_checkpoint_counts(tmp_path: Path) -> None:
    history = History(tmp_path, "x")
    for step in range(KEPT + 2):
        assert history.save({"step": step, "x": {"y": [torch.ones(1)]}})
    assert not history.save({"step": 99, "x": {"y": [torch.tensor([float("nan")])]}})
    assert history.load("cpu")["step"] == KEPT + 1
    assert history.load("cpu", skip=1)["step"] == KEPT
    assert history.load("cpu", skip=9)["step"] == 2
    history.paths[0].write_bytes(history.paths[0].read_bytes()[:100])
    assert history.load("cpu")["step"] == KEPT
    history.forget()
    assert history.load("cpu") is None
    assert not [*tmp_path.iterdir()]
