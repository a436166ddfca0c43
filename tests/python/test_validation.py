"""validate_correctness against numpy's own comparison, special values first."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blackwell_sparsek.utils import validate_correctness

numbers = st.one_of(
    st.floats(-4, 4, width=32), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0])
)


@given(st.lists(st.tuples(numbers, numbers), max_size=30), st.booleans())
@settings(max_examples=300, deadline=None)
def test_agrees_with_numpy(pairs: list[tuple[float, float]], same: bool) -> None:
    output = torch.tensor([a for a, _ in pairs])
    reference = torch.tensor([a if same else b for a, b in pairs])
    ok, metrics = validate_correctness(output, reference, rtol=0.1, atol=0.5)
    close = np.isclose(
        output.double().numpy(), reference.double().numpy(), 0.1, 0.5, equal_nan=True
    )
    assert metrics["num_mismatches"] == (~close).sum()
    assert metrics["num_elements"] == len(pairs)
    assert ok == bool(close.all())
    finite = output.isfinite() & reference.isfinite()
    difference = np.abs(output[finite].double().numpy() - reference[finite].double().numpy())
    if difference.size:
        assert metrics["mean_diff"] == pytest.approx(difference.mean())
        assert metrics["median_diff"] == pytest.approx(np.median(difference))


def test_worst_difference_is_found_in_any_rank() -> None:
    reference = torch.zeros(2, 3, 4, 5)
    output = reference.clone()
    output[1, 2, 0, 3] = -0.25
    output[0, 1, 1, 1] = 0.125
    ok, metrics = validate_correctness(output, reference)
    assert not ok
    assert metrics["worst_diff_location"] == (1, 2, 0, 3)
    assert metrics["worst_diff_output"] == -0.25
    assert metrics["worst_diff_reference"] == 0.0
    assert metrics["max_diff"] == 0.25
    assert metrics["num_mismatches"] == 2
    assert metrics["mismatch_rate"] == pytest.approx(2 / 120)
    assert metrics["mean_diff"] == pytest.approx(0.375 / 120)


@pytest.mark.parametrize(
    ("value", "expected", "agrees"),
    [
        (math.nan, 0.0, False),
        (0.0, math.nan, False),
        (math.nan, math.nan, True),
        (math.inf, math.inf, True),
        (math.inf, -math.inf, False),
        (math.inf, 1e30, False),
        (1e30, math.inf, False),
        (math.nan, math.inf, False),
    ],
)
def test_special_values_agree_only_with_themselves(value, expected, agrees) -> None:
    output, reference = torch.ones(4), torch.ones(4)
    output[2], reference[2] = value, expected
    ok, metrics = validate_correctness(output, reference, rtol=1e6, atol=1e6)
    assert ok == agrees
    assert metrics["num_nonfinite_mismatches"] == int(not agrees)
    if not agrees:
        assert metrics["max_diff"] == math.inf
        assert metrics["worst_diff_location"] == (2,)


@pytest.mark.parametrize("shape", [(0,), (2, 0, 3)])
def test_empty_tensors_agree(shape: tuple[int, ...]) -> None:
    ok, metrics = validate_correctness(torch.zeros(shape), torch.zeros(shape))
    assert ok
    assert metrics["num_elements"] == 0 and metrics["mismatch_rate"] == 0.0
    assert metrics["worst_diff_location"] is None


def test_scalars_half_precision_and_grad() -> None:
    ok, metrics = validate_correctness(torch.tensor(1.0), torch.tensor(1.0))
    assert ok and metrics["worst_diff_location"] == ()
    big = torch.tensor([60000.0], dtype=torch.float16)
    ok, metrics = validate_correctness(big, -big)
    assert metrics["max_diff"] == 120000.0, "computed in fp64: fp16 would overflow"
    leaf = torch.ones(3, requires_grad=True)
    assert validate_correctness(leaf, leaf)[0]


x = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("output", "reference", "options", "error", "match"),
    [
        (
            x,
            x.T,
            {},
            ValueError,
            r"the shape of output, \(2, 3\); got \(3, 2\)",
        ),
        (x, torch.zeros(3), {}, ValueError, "reference: must have the shape"),
        (x, x.half(), {}, TypeError, "dtype of output, torch.float32; got torch.float16"),
        (x.int(), x.int(), {}, TypeError, "output: must be floating-point; got torch.int32"),
        (x, x > 0, {}, TypeError, "reference: must be floating-point; got torch.bool"),
        (x, [0.0], {}, TypeError, "reference: must be a torch.Tensor; got list"),
        (x, x.to("meta"), {}, ValueError, "device of output, cpu; got meta"),
        (x, x, {"rtol": -1.0}, ValueError, "rtol: must be finite and >= 0; got -1.0"),
        (x, x, {"atol": math.nan}, ValueError, "atol: must be finite"),
        (x, x, {"atol": "0"}, TypeError, "atol: must be a number; got str"),
    ],
)
def test_wrong_calls(output, reference, options, error, match) -> None:
    with pytest.raises(error, match=match):
        validate_correctness(output, reference, **options)
