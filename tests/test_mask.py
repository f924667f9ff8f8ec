import pytest
import torch

from sat3d.mask import channel_mask, edit, probabilities
from sat3d.testing import ToyGenerator

LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])


def test_each_channels_probabilities_sum_to_one():
    torch.testing.assert_close(probabilities(LOGITS).sum(0), torch.ones(3))


def test_a_mask_is_the_sum_of_its_targets_rows():
    shares = probabilities(LOGITS)
    torch.testing.assert_close(channel_mask(LOGITS, [0, 1]), shares[0] + shares[1])
    torch.testing.assert_close(channel_mask(LOGITS, [0, 1, 2]), torch.ones(3))


def test_only_editable_channels_move_and_only_as_far_as_the_mask_says():
    layout = ToyGenerator().layout
    source, reference = torch.zeros(2, layout.channels), torch.ones(2, layout.channels)
    mask = torch.linspace(0, 1, layout.editable_channels)
    found = edit(source, reference, mask, layout, intensity=1.5)
    torch.testing.assert_close(found[:, layout.editable], 1.5 * mask.expand(2, -1))
    fixed = torch.ones(layout.channels, dtype=torch.bool)
    fixed[layout.editable] = False
    assert fixed.sum() == 8 and found[:, fixed].eq(0).all()
    assert source.eq(0).all()


@pytest.mark.parametrize("intensity", [0.0, 1.0, -2.0])
def test_a_mask_per_pair_equals_one_pair_at_a_time(intensity):
    layout = ToyGenerator().layout
    one, two = torch.randn(2, 2, layout.channels, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(2, layout.editable_channels, generator=torch.Generator().manual_seed(2))
    both = edit(one, two, mask, layout, intensity)
    for k in range(2):
        alone = edit(one[k : k + 1], two[k : k + 1], mask[k], layout, intensity)
        assert torch.equal(both[k : k + 1], alone)
    if intensity == 0.0:
        assert torch.equal(both, one)


def test_the_edits_gradient_equals_the_numeric_one():
    layout = ToyGenerator().layout
    source = torch.Generator().manual_seed(3)
    one, two = torch.randn(2, 1, layout.channels, dtype=torch.float64, generator=source)
    mask = torch.rand(layout.editable_channels, dtype=torch.float64, generator=source)
    inputs = (one.requires_grad_(), two.requires_grad_(), mask.requires_grad_())
    # Eight random outputs stand for all: the Jacobian is sparse and linear in each input.
    assert torch.autograd.gradcheck(lambda s, r, m: edit(s, r, m, layout)[:, ::9], inputs)
