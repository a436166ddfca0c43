"""The operator under torch on the GPU: opcheck, torch.compile, the SDPA registry, autocast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import gpu_tools
from blackwell_sparsek import BlockMask, attention_forward
from blackwell_sparsek.backends import register_sdpa
from gpu_tools import DEVICE, ON_GPU, needs_cuda, randn

pytestmark = gpu_tools.gpu_only()

OPS = torch.ops.blackwell_sparsek
NAMES = [
    f"attention_forward{lse}{out}" for lse in ("", "_lse") for out in ("", "_out")
]  # the four operators


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


def grouped(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return (
        randn(2, 4, 70, 32, seed=seed),
        randn(2, 2, 90, 32, seed=seed + 1),
        randn(2, 2, 90, 24, seed=seed + 2),
    )


def everything() -> tuple[Any, ...]:
    """All arguments after q, k, v, none at its default."""
    mask = BlockMask.sliding_window(70, 90, 40, block_size=64, device=DEVICE)
    return 0.2, 2, 50, 3, 10.0, randn(70, 90, seed=5), *mask._native(70, 90)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(name: str, masked: bool) -> None:
    arguments = (*grouped(), *(everything() if masked else ()))
    if name.endswith("_out"):
        arguments = (torch.empty(2, 4, 70, 24, dtype=torch.float16, device=DEVICE), *arguments)
    report = torch.library.opcheck(getattr(OPS, name).default, arguments)
    assert set(report.values()) == {"SUCCESS"}


def test_the_operator_equals_the_direct_call() -> None:
    assert torch.equal(OPS.attention_forward(*grouped()), attention_forward(*grouped()))


@pytest.mark.parametrize("length", [1, 70, 512])
def test_the_result_lies_in_memory_as_queries_do(length: int) -> None:
    rows = [randn(2, length, 4, 64, seed=i) for i in range(3)]
    views = [t.transpose(1, 2) for t in rows]
    copies = [t.contiguous() for t in views]
    for function in (attention_forward, OPS.attention_forward):
        assert function(*views).transpose(1, 2).is_contiguous()
        assert function(*copies).is_contiguous()
        assert torch.equal(function(*views), function(*copies))


def test_autocast_casts_as_sdpa_does() -> None:
    tensors = [t.float() for t in grouped()]
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        result = attention_forward(*tensors)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, attention_forward(*(t.bfloat16() for t in tensors)))


# ---- torch.compile -------------------------------------------------------------------------------


class Layer(nn.Module):
    """Attention of 8 heads of 64 with a residual."""

    def __init__(self, attention: Callable[..., Tensor]) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(512, 3 * 512), nn.Linear(512, 512)
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, 8, 64)
        q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
        attended = self.attention(q, k, v, is_causal=True)
        result: Tensor = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return result


def two_layers(attention: Callable[..., Tensor]) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(Layer(attention), Layer(attention))
    return model.to(DEVICE, torch.float16).eval()


@torch.no_grad()
def test_two_layers_compile_without_a_graph_break() -> None:
    model = two_layers(attention_forward)
    x = randn(1, 512, 512)
    explanation = torch._dynamo.explain(model)(x)
    assert explanation.graph_break_count == 0 and explanation.graph_count == 1
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (512, 300, 130):
        x = randn(1, length, 512)
        assert torch.equal(compiled(x), model(x))


@pytest.mark.slow
@needs_cuda
@torch.no_grad()
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_inductor_and_graph_trees_give_equal_outputs(mode: str | None) -> None:
    model = two_layers(attention_forward)
    compiled = torch.compile(model, fullgraph=True, mode=mode)
    for seed in range(4):  # graph trees record in the second call and replay from the third
        x = randn(1, 512, 512, seed=seed)
        torch.compiler.cudagraph_mark_step_begin()
        result = compiled(x).clone()
        torch.testing.assert_close(result, model(x), rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_block_masks_as_arguments_and_built_inside() -> None:
    def given(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
        return attention_forward(q, k, v, is_causal=True, block_mask=mask)

    def inside(q: Tensor, k: Tensor, v: Tensor, dense: Tensor) -> Tensor:
        return attention_forward(q, k, v, block_mask=BlockMask.from_dense(dense, 64))

    q, k, v = (randn(1, 4, 256, 64, seed=i) for i in range(3))
    dense = randn(1, 4, 4, 4, seed=9) > 0
    mask = BlockMask.from_dense(dense, 64)
    for function, last in ((given, mask), (inside, dense)):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(q, k, v, last), function(q, k, v, last))


def time_of_calls(call: Callable[[], object]) -> float:
    """us of one of many calls in a row: the host's time where it is the slower one."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(200):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / 200 * 1e6


def time_on_the_gpu(call: Callable[[], object]) -> float:
    """us of one of ten calls that are all enqueued before the first begins."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(10_000_000)  # clocks, 5 ms or more
    start.record()
    for _ in range(10):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 10 * 1e3


# A graph's replay costs the host more than these two layers take the GPU, whatever is in it: there
# the GPU's time is compared, else what a caller waits.
@pytest.mark.timed
@needs_cuda
@torch.no_grad()
@pytest.mark.parametrize(
    ("mode", "timed"), [(None, time_of_calls), ("reduce-overhead", time_on_the_gpu)]
)
def test_a_compiled_model_is_faster_than_with_sdpa(
    mode: str | None,
    timed: Callable[[Callable[[], object]], float],
    figure: Callable[[str], None],
) -> None:
    x = randn(1, 512, 512)
    sides: dict[str, Any] = {}
    for name, attention in (("ours", attention_forward), ("SDPA", scaled_dot_product_attention)):
        torch._dynamo.reset() if not sides else None
        sides[name] = torch.compile(two_layers(attention), fullgraph=True, mode=mode)
        for _ in range(5):
            sides[name](x)
    torch.testing.assert_close(sides["ours"](x).clone(), sides["SDPA"](x), rtol=1e-2, atol=1e-2)
    rounds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(10):
        for name in sorted(sides, reverse=bool(turn % 2)):
            rounds[name].append(timed(lambda name=name: sides[name](x)))  # type: ignore[misc]
    ours, sdpa = (statistics.median(rounds[name]) for name in ("ours", "SDPA"))
    figure(
        f"torch.compile(mode={mode!r}), two layers, B1 H8 S512 D64 fp16 causal: {ours:.1f} us with "
        f"attention_forward, {sdpa:.1f} us with SDPA ({timed.__name__}, median of 10 rounds)"
    )
    assert ours < sdpa


# ---- torch's own attention through the registry --------------------------------------------------


@pytest.fixture
def bsk_active() -> Iterator[None]:
    attention = torch.nn.attention
    if not hasattr(attention, "activate_flash_attention_impl"):
        pytest.skip(f"torch {torch.__version__} has no registry of flash-attention implementations")
    register_sdpa()
    attention.activate_flash_attention_impl("BSK")
    yield
    attention.restore_flash_attention_impl()


def flash() -> Any:
    """torch's flash backend, which the registry's entry stands in for."""
    return sdpa_kernel(SDPBackend.FLASH_ATTENTION) if ON_GPU else nullcontext()


def same_length(length: int = 130, heads: int = 4, kv_heads: int = 4) -> list[Tensor]:
    shapes = ((2, heads, length, 64), (2, kv_heads, length, 64), (2, kv_heads, length, 64))
    return [randn(*shape, seed=i) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "rows first"])
def test_sdpa_is_ours_while_active(is_causal: bool, layout: str, bsk_active: None) -> None:
    tensors = same_length()
    if layout == "rows first":
        tensors = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors]
    with flash():
        result = scaled_dot_product_attention(*tensors, is_causal=is_causal, scale=0.2)
    assert torch.equal(result, attention_forward(*tensors, 0.2, is_causal=is_causal))


def test_sdpa_with_grouped_heads(bsk_active: None) -> None:
    tensors = same_length(heads=8, kv_heads=2)
    with flash():
        result = scaled_dot_product_attention(*tensors, enable_gqa=True)
    assert torch.equal(result, attention_forward(*tensors))


@needs_cuda
def test_causal_with_unequal_lengths_is_torchs(bsk_active: None) -> None:
    """SDPA's is_causal is aligned upper left; whoever computes it, that is what must come out."""
    tensors = [randn(2, 4, n, 64, seed=n) for n in (70, 130, 130)]
    result = scaled_dot_product_attention(*tensors, is_causal=True)
    reference, _ = gpu_tools.exact(*tensors, is_causal="upper_left")
    torch.testing.assert_close(result.double(), reference, rtol=1e-2, atol=1e-2)


@needs_cuda
def test_what_we_do_not_take_is_torchs(bsk_active: None) -> None:
    tensors = same_length()
    torch.manual_seed(3)
    with flash():
        dropped = scaled_dot_product_attention(*tensors, dropout_p=0.5)
    torch.nn.attention.restore_flash_attention_impl()
    torch.manual_seed(3)
    with flash():
        expected = scaled_dot_product_attention(*tensors, dropout_p=0.5)
    assert torch.equal(dropped, expected)


@needs_cuda
def test_gradients_are_torchs_backward_on_our_forward(bsk_active: None) -> None:
    tensors = [t.requires_grad_() for t in same_length()]
    gradients = []
    for _ in range(2):
        with flash():
            result = scaled_dot_product_attention(*tensors, is_causal=True)
        gradients.append(torch.autograd.grad(result.float().square().sum(), tensors))
        torch.nn.attention.restore_flash_attention_impl()
    for ours, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (20, 0)])
def test_varlen_attn(window: tuple[int, int], bsk_active: None) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    lengths = (40, 100, 1, 59)
    offsets = torch.tensor((0, *lengths)).cumsum(0).int().to(DEVICE)
    q, k, v = (randn(200, 4, 64, seed=i) for i in range(3))
    result = varlen.varlen_attn(q, k, v, offsets, offsets, 100, 100, window_size=window)
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        one = [t[rows].transpose(0, 1)[None] for t in (q, k, v)]
        reference, _ = gpu_tools.exact(*one, window=window)
        torchs = gpu_tools.by_torch(*one, window=window)
        gpu_tools.assert_close(result[rows].transpose(0, 1)[None], reference, torchs)
        start += length


def test_restore_brings_torch_back(bsk_active: None) -> None:
    tensors = same_length()
    torch.nn.attention.restore_flash_attention_impl()
    with flash():
        before = scaled_dot_product_attention(*tensors)
    register_sdpa()
    torch.nn.attention.activate_flash_attention_impl("BSK")
    torch.nn.attention.restore_flash_attention_impl()
    with flash():
        assert torch.equal(scaled_dot_product_attention(*tensors), before)
