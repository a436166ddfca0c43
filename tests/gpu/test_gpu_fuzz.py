"""Ten thousand small problems drawn from seeds, all options mixed, against fp64 on the GPU."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

import gpu_tools
from blackwell_sparsek import BlockMask, attention_forward
from gpu_tools import DEVICE, DTYPES, ON_GPU, exact, generator

pytestmark = [gpu_tools.gpu_only(), pytest.mark.slow]

SHARDS, CASES = 10, 1000 if ON_GPU else 50
# Few tile shapes, so that the time goes into cases and not into compiling kernels; the other head
# dims have tests of their own.
DIMS = [(64, 64), (64, 64), (128, 128), (40, 64), (48, 40), (120, 104)]


def draw(random_: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    kv_heads = random_.choice((1, 2, 3))
    sizes = {
        "batch": random_.choice((1, 2, 3)),
        "kv_heads": kv_heads,
        "q_heads": kv_heads * random_.choice((1, 2, 3, 4)),
        "q_len": random_.randint(1, 200),
        "kv_len": random_.randint(1, 320),
        "dims": random_.choice(DIMS),
        "dtype": random_.choice(DTYPES),
        "rows_first": random_.random() < 0.3,
        "mask": random_.choice(("",) * 6 + ("bool", "additive", "padding")),
        "blocks": random_.choice((None, None, None, (64, 64), (128, 128), (64, 32))),
        "density": random_.choice((0.0, 0.2, 0.6, 1.0)),
    }
    options: dict[str, Any] = {}
    if random_.random() < 0.5:
        options["is_causal"] = random_.choice((True, "upper_left", "lower_right"))
    if random_.random() < 0.25:
        options["window"] = (random_.randint(-1, 150), random_.randint(-1, 150))
    if random_.random() < 0.15:
        options["softcap"] = random_.choice((3.0, 30.0))
    if random_.random() < 0.2:
        options["scale"] = random_.choice((0.02, 0.5, -0.2, 0.0))
    return sizes, options


def tensors(pool: torch.Tensor, sizes: dict[str, Any], seed: int) -> list[torch.Tensor]:
    """Q, K and V cut out of a pool of random numbers: no launch per tensor."""
    place = random.Random(seed)
    result = []
    for heads, length, dim in (
        (sizes["q_heads"], sizes["q_len"], sizes["dims"][0]),
        (sizes["kv_heads"], sizes["kv_len"], sizes["dims"][0]),
        (sizes["kv_heads"], sizes["kv_len"], sizes["dims"][1]),
    ):
        count = sizes["batch"] * heads * length * dim
        first = place.randrange((pool.numel() - count) // 8) * 8
        numbers = pool[first : first + count]
        if sizes["rows_first"]:
            result.append(numbers.view(sizes["batch"], length, heads, dim).transpose(1, 2))
        else:
            result.append(numbers.view(sizes["batch"], heads, length, dim))
    return result


def masks(sizes: dict[str, Any], generator_: torch.Generator) -> dict[str, Any]:
    found: dict[str, Any] = {}
    shape = (sizes["batch"], sizes["q_heads"], sizes["q_len"], sizes["kv_len"])
    if sizes["mask"] == "padding":
        noise = torch.rand(shape[0], 1, 1, shape[3], generator=generator_, device=DEVICE)
        found["attn_mask"] = noise < 0.7
    elif sizes["mask"]:
        noise = torch.randn(shape, generator=generator_, device=DEVICE)
        found["attn_mask"] = noise > -0.3 if sizes["mask"] == "bool" else noise.to(sizes["dtype"])
    if sizes["blocks"] is not None:
        block_q, block_k = sizes["blocks"]
        counts = -(-sizes["q_len"] // block_q), -(-sizes["kv_len"] // block_k)
        noise = torch.rand(1, sizes["q_heads"], *counts, generator=generator_, device=DEVICE)
        found["block_mask"] = BlockMask.from_dense(
            noise < sizes["density"],
            (block_q, block_k),
            q_len=sizes["q_len"],
            kv_len=sizes["kv_len"],
        )
    return found


def baseline(Q: torch.Tensor, K: torch.Tensor, V: torch.Tensor, **options: Any) -> torch.Tensor:
    """Torch in the tensors' precision as attention kernels compute: fp32 scores, rounded weights."""
    softcap = options.pop("softcap", None)
    attn_mask = options.pop("attn_mask", None)
    scale = options.pop("scale", None)
    allowed = gpu_tools.visible(Q, K, attn_mask=attn_mask, **options)
    scores = gpu_tools._scores(Q.float(), K.float(), scale, softcap, attn_mask, allowed)
    weights = scores.softmax(-1).nan_to_num(0.0).to(Q.dtype)
    return weights @ V.repeat_interleave(Q.shape[1] // V.shape[1], 1)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_drawn_problems(shard: int) -> None:
    """Errors are gathered on the device and read once per 50 cases."""
    source = generator(shard)
    pools = {
        dtype: torch.randn(1 << 22, generator=source, device=DEVICE).to(dtype) for dtype in DTYPES
    }
    random_ = random.Random(shard)
    for batch in (range(first, first + 50) for first in range(0, CASES, 50)):
        ratios, described = [], []
        for index in batch:
            sizes, options = draw(random_)
            options |= masks(sizes, source)
            Q, K, V = tensors(pools[sizes["dtype"]], sizes, index)
            result, lse = attention_forward(Q, K, V, return_lse=True, **options)
            reference, reference_lse = exact(Q, K, V, **options)
            torch_error = (baseline(Q, K, V, **options).double() - reference).abs().amax()
            eps = torch.finfo(sizes["dtype"]).eps
            one = reference.abs().amax().clamp(min=1e-3) * eps
            error = (result.double() - reference).abs().amax()
            ratios.append(error / (2 * torch_error + one))
            empty = reference_lse == -torch.inf
            lse_error = (lse.double() - reference_lse).masked_fill(empty, 0.0).abs().amax()
            finite = reference_lse.masked_fill(empty, 0.0).abs().amax().clamp(min=1.0)
            wrong_rows = ((lse == -torch.inf) != empty).any() | (
                result.masked_fill(~empty[..., None], 0.0) != 0
            ).any()
            ratios.append(lse_error / (2e-5 * finite) + wrong_rows * 1e9)
            described.append((index, sizes, options))
        # NaN must not compare as small: it becomes the worst of all.
        worst = torch.stack(ratios).nan_to_num(nan=1e9).tolist()
        gpu_tools.MARGINS.append(max(worst[::2]))
        for kind, values in (("output", worst[::2]), ("LSE", worst[1::2])):
            for value, problem in zip(values, described, strict=True):
                assert value <= 1.0, f"{kind}: {value:.2f} x the allowed error, case {problem}"
