"""The cases mean what their names say, and their work is counted pair by pair."""

import dataclasses

import pytest
import torch

from blackwell_sparsek.bench import cases, roofline, tables
from blackwell_sparsek.bench.cases import Blocks, Case

ALL = [*cases.SMOKE, *cases.EDGE, *cases.sweep(40)]


def counted(case: Case) -> int:
    """Pairs by a bool tensor of the full size."""
    block_mask = case.make().options.get("block_mask")
    shape = (case.batch, case.q_heads, case.q_len, case.kv_len)
    allowed = torch.ones(shape, dtype=torch.bool)
    offset = 0 if case.is_causal in (True, "upper_left") else case.kv_len - case.q_len
    distance = torch.arange(case.kv_len) - (torch.arange(case.q_len).view(-1, 1) + offset)
    if case.is_causal:
        allowed &= distance <= 0
    if case.window is not None:
        left, right = case.window
        allowed &= (distance >= -left) | (left < 0)
        allowed &= (distance <= right) | (right < 0)
    if block_mask is not None:
        dense = block_mask.to_dense_mask(case.q_len, case.kv_len)
        allowed &= dense.repeat_interleave(case.q_heads // dense.shape[1], 1)
    return int(allowed.sum())


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_selected_pairs(case: Case) -> None:
    pairs = roofline.selected_pairs(case, case.make().options.get("block_mask"))
    assert pairs == counted(case)
    assert roofline.flops(case, pairs) == 2 * pairs * (case.head_dim + case.v_head_dim)


def test_flops_of_the_usual_formula() -> None:
    case = Case(2, 16, 2048, 128)
    assert roofline.flops(case, roofline.selected_pairs(case, None)) == 4 * 2 * 16 * 2048**2 * 128


def test_bytes() -> None:
    case = Case(1, 8, 512, 64, dtype="fp16")
    assert roofline.bytes_moved(case) == 4 * 8 * 512 * 64 * 2
    padded = dataclasses.replace(case, mask="padding")
    assert roofline.bytes_moved(padded) - roofline.bytes_moved(case) == 512
    gqa = dataclasses.replace(case, kv_heads=2)
    assert roofline.bytes_moved(gqa) == (2 * 8 + 2 * 2) * 512 * 64 * 2


def test_names_are_unique_and_the_inputs_repeatable() -> None:
    every = [table.cases for table in tables.TABLES.values()]
    for table in (cases.SMOKE, cases.EDGE, *every):
        names = [case.name for case in table]
        assert len(set(names)) == len(names)
    case = Case(blocks=Blocks(density=0.5), mask="bool", q_len=200)
    one, two = case.make(seed=3), case.make(seed=3)
    assert torch.equal(one.Q, two.Q) and torch.equal(one.V, two.V)
    assert torch.equal(one.options["attn_mask"], two.options["attn_mask"])
    dense = [inputs.options["block_mask"].to_dense() for inputs in (one, two)]
    assert torch.equal(*dense)
    assert not torch.equal(one.Q, case.make(seed=4).Q)


def test_a_case_is_built_as_it_says() -> None:
    case = Case(2, 8, 100, 32, kv_heads=2, kv_len=70, v_head_dim=48, dtype="bf16", rows_first=True)
    Q, K, V, options = case.make()
    assert Q.shape == (2, 8, 100, 32) and K.shape == (2, 2, 70, 32) and V.shape == (2, 2, 70, 48)
    assert Q.dtype == torch.bfloat16 and Q.stride(1) == 32 and not options
    assert case.name == "b2_h8kv2_s100x70_d32v48_bf16_bshd"
    assert cases.sweep(5, seed=1) == cases.sweep(5, seed=1) != cases.sweep(5, seed=2)
