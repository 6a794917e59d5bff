"""The piecewise linear encoding of numbers."""

import torch

from reaseq.ranker.number_encoding import NumberEncoding


def fitted(values: torch.Tensor, bins: int = 4) -> NumberEncoding:
    encoding = NumberEncoding(values.shape[1], bins)
    encoding.fit(values)
    return encoding


def test_bins_below_a_number_are_full_and_its_own_in_part() -> None:
    encoding = fitted(torch.arange(101.0).unsqueeze(-1))

    assert torch.allclose(encoding(torch.tensor([[60.0]])), torch.tensor([[1, 1, 0.4, 0, 0]]))
    assert encoding(torch.tensor([[-5.0], [500.0]])).tolist() == [[0, 0, 0, 0, 0], [1, 1, 1, 1, 0]]


def test_missing_number_is_below_every_bin_and_flagged() -> None:
    encoding = fitted(torch.tensor([[1.0, torch.nan], [2.0, torch.nan]]))

    assert encoding(torch.tensor([[torch.nan, torch.nan]])).tolist() == [[0, 0, 0, 0, 1] * 2]


def test_number_with_few_values_separates_them() -> None:
    encoding = fitted(torch.tensor([0.0] * 90 + [1.0] * 5 + [7.0] * 5).unsqueeze(-1))

    zero, one, seven = encoding(torch.tensor([[0.0], [1.0], [7.0]]))
    assert zero.sum() < one.sum() < seven.sum()


def test_encoding_is_monotone() -> None:
    values = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    encoding = fitted(values, bins=12)

    ordered = encoding(values.sort(dim=0).values).view(500, 3, 13).sum(-1)
    assert (ordered.diff(dim=0) >= -1e-5).all()
