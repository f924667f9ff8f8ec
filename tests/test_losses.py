import pytest
import torch

from sat3d.losses import (
    background_loss,
    preserve_loss,
    probability_loss,
    soften,
    target_loss,
    total_loss,
)
from sat3d.settings import LossWeights

# Two attributes: the first with a group of two phrases, the second with one of three.
OWNER = torch.tensor([0, 0, 1, 1, 1])
EDIT = torch.tensor([[0.7, 0.3, 0.2, 0.5, 0.3]])
OTHER = torch.tensor([[0.4, 0.6, 0.2, 0.1, 0.7]])


def _only(*rows: int) -> torch.Tensor:
    return torch.tensor([[row in rows for row in range(2)]])


def test_target_loss_sums_the_targets_phrases():
    # |0.7-0.4| + |0.3-0.6| and |0| + |0.5-0.1| + |0.3-0.7|, by hand.
    assert target_loss(EDIT, OTHER, _only(0), OWNER).item() == pytest.approx(0.6, abs=1e-6)
    assert target_loss(EDIT, OTHER, _only(1), OWNER).item() == pytest.approx(0.8, abs=1e-6)
    assert target_loss(EDIT, OTHER, _only(0, 1), OWNER).item() == pytest.approx(1.4, abs=1e-6)


def test_preserve_loss_takes_all_other_attributes():
    assert preserve_loss(EDIT, OTHER, _only(0), OWNER).item() == pytest.approx(0.8, abs=1e-6)
    assert preserve_loss(EDIT, OTHER, _only(0, 1), OWNER).item() == 0


def test_each_row_of_a_batch_has_its_own_targets():
    both = torch.cat([_only(0), _only(1)])
    found = target_loss(EDIT.expand(2, -1), OTHER.expand(2, -1), both, OWNER)
    assert found.tolist() == pytest.approx([0.6, 0.8], abs=1e-6)


def test_background_loss_counts_only_pixels_outside_both_regions():
    source = torch.zeros(1, 3, 2, 2)
    edit = torch.tensor([[0.1, 0.2], [0.3, 0.4]]).expand(1, 3, 2, 2)
    one = torch.tensor([[[True, False], [False, False]]])
    two = torch.tensor([[[False, True], [False, False]]])
    # Background is the lower row: (0.3 + 0.4) * 3 colours over 2 pixels.
    found = background_loss(edit, source, one, two)
    assert found.item() == pytest.approx(3 * 0.7 / 2, abs=1e-6)
    assert background_loss(edit, source, one, ~one).item() == 0


def test_probability_loss_is_what_the_strongest_row_lacks():
    logits = torch.tensor([[0.0, 30.0], [0.0, 0.0]])
    # Shares 1/2 and 1: mean of 0.5 and 0.
    assert probability_loss(logits).item() == pytest.approx(0.25, abs=1e-6)


def test_total_loss_is_the_weighted_sum_of_batch_means():
    parts = {
        "target": torch.tensor([1.0, 3.0]),
        "preserve": torch.tensor([0.5, 0.5]),
        "background": torch.tensor([0.1, 0.3]),
        "probability": torch.tensor(0.4),
    }
    weights = LossWeights(target=2, preserve=4, background=10, probability=5)
    assert total_loss(parts, weights).item() == pytest.approx(4 + 2 + 2 + 2, abs=1e-6)


def test_soften_equals_dividing_the_scores():
    scores = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double() * 5
    member = torch.nn.functional.one_hot(OWNER).double()

    def measured(temperature):
        return torch.cat([(x / temperature).softmax(1) for x in scores.split([2, 3], dim=1)], 1)

    torch.testing.assert_close(soften(measured(1.0), member, 3.0), measured(3.0))
    assert soften(EDIT, member, 1.0) is EDIT


def test_gradients_equal_numeric_ones():
    torch.manual_seed(0)
    kw = {"dtype": torch.float64}
    reading = torch.rand(2, 5, **kw).requires_grad_()
    other = torch.rand(2, 5, **kw)
    chosen = torch.cat([_only(0), _only(1)])
    assert torch.autograd.gradcheck(lambda x: target_loss(x, other, chosen, OWNER), reading)
    assert torch.autograd.gradcheck(lambda x: preserve_loss(x, other, chosen, OWNER), reading)
    image = torch.rand(2, 3, 4, 4, **kw).requires_grad_()
    plain = torch.rand(2, 3, 4, 4, **kw)
    one, two = torch.rand(2, 2, 4, 4) > 0.7
    assert torch.autograd.gradcheck(lambda x: background_loss(x, plain, one, two), image)
    logits = torch.randn(3, 6, **kw).requires_grad_()
    assert torch.autograd.gradcheck(probability_loss, logits)
    member = torch.nn.functional.one_hot(OWNER).double()
    assert torch.autograd.gradcheck(lambda x: soften(x, member, 2.5), reading)
