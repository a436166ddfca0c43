"""torch.compile, torch.export and AOTInductor on code that calls `attention_forward` itself."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd

from blackwell_sparsek import BlockMask, UnsupportedError, attention_forward
from blackwell_sparsek.core import Config, set_default_config
from blackwell_sparsek.fallback import FallbackWarning


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


def qkv(q_len: int, kv_len: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(q_len)
    kv_len = kv_len or q_len
    return (
        torch.randn(2, 4, q_len, 32, generator=g),
        torch.randn(2, 2, kv_len, 32, generator=g),
        torch.randn(2, 2, kv_len, 32, generator=g),
    )


def counted(backend: str) -> Any:
    return torch._dynamo.testing.CompileCounterWithBackend(backend)


def two_layers(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    hidden = attention_forward(
        q, k, v, is_causal="lower_right", window=(40, -1), softcap=20.0, attn_mask=mask
    )
    return attention_forward(hidden.relu(), k, v, 0.3) + 1


def test_full_graph_without_recompilation_over_lengths() -> None:
    counter = counted("aot_eager")
    compiled = torch.compile(two_layers, fullgraph=True, dynamic=True, backend=counter)
    # Unequal sizes first: torch takes sizes that are equal in the first call for one and the same.
    for q_len, kv_len in ((70, 91), (65, 65), (130, 140), (33, 77)):
        arguments = (*qkv(q_len, kv_len), torch.rand(q_len, kv_len) > 0.2)
        torch.testing.assert_close(compiled(*arguments), two_layers(*arguments), rtol=0, atol=0)
    assert counter.frame_count == 1


def test_automatic_dynamic_shapes_recompile_once() -> None:
    counter = counted("aot_eager")
    compiled = torch.compile(two_layers, fullgraph=True, backend=counter)
    for q_len in (65, 70, 130, 33):
        arguments = qkv(q_len)
        assert torch.equal(compiled(*arguments), two_layers(*arguments))
    assert counter.frame_count == 2  # static first, then dynamic


def test_no_graph_break() -> None:
    explanation = torch._dynamo.explain(two_layers)(*qkv(64))
    assert explanation.graph_break_count == 0
    assert explanation.graph_count == 1


def test_a_models_transpositions_cost_nothing() -> None:
    """The graph of a usual attention layer has no copy and the shortest operator."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def layer(x: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in x.view(2, -1, 3, 4, 32).unbind(2))
        hidden = attention_forward(q, k, v, is_causal=True).transpose(1, 2)
        masked = attention_forward(q, k, v, window=(9, 0)).transpose(1, 2)
        return hidden.reshape(2, -1, 128).relu() + masked.reshape(2, -1, 128)

    compiled = torch.compile(
        layer, fullgraph=True, dynamic=True, backend=aot_autograd(fw_compiler=keep)
    )
    with torch.no_grad():
        for length in (70, 33):
            x = torch.randn(2, length, 384)
            assert torch.equal(compiled(x), layer(x))
    (graph,) = graphs
    calls = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert "blackwell_sparsek.attention_forward_dense.default" in calls
    assert "blackwell_sparsek.attention_forward.default" in calls
    assert not [name for name in calls if "clone" in name or "copy" in name]


def test_a_problem_without_a_kernel_in_compiled_code() -> None:
    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention_forward(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)) + 1

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    tensors = [torch.randn(2, 40, 4, 32) for _ in range(3)]
    set_default_config(Config(kernel="sm90_attention_forward"))
    with pytest.raises(UnsupportedError, match="sm90_attention_forward"):
        compiled(*tensors)
    set_default_config(Config(kernel="sm90_attention_forward", fallback="sdpa"))
    with pytest.warns(FallbackWarning, match="sm90_attention_forward"):
        result = compiled(*tensors)
    assert result.transpose(1, 2).is_contiguous()
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(t.transpose(1, 2) for t in tensors)
    )
    torch.testing.assert_close(result, expected + 1)


def test_block_masks_as_arguments() -> None:
    def model(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> tuple[Tensor, Tensor]:
        return attention_forward(q, k, v, is_causal=True, block_mask=mask, return_lse=True)

    counter = counted("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    for q_len in (700, 450, 330):
        mask = BlockMask.sliding_window(q_len, q_len, 100, block_size=64)
        arguments = (*qkv(q_len), mask)
        for ours, eager in zip(compiled(*arguments), model(*arguments), strict=True):
            assert torch.equal(ours, eager)
    assert counter.frame_count == 1


def test_block_mask_built_inside() -> None:
    def model(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor) -> Tensor:
        mask = BlockMask.from_dense(blocks, 64)
        return attention_forward(q, k, v, block_mask=mask)

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    blocks = torch.tensor([[True, False], [True, True]])
    assert torch.equal(compiled(*qkv(128), blocks), model(*qkv(128), blocks))


def test_out_is_written() -> None:
    def model(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
        attention_forward(q, k, v, out=out)
        return out * 2

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    q, k, v = qkv(64)
    out = torch.zeros_like(q)
    doubled = compiled(q, k, v, out)
    assert torch.equal(out, attention_forward(q, k, v))
    assert torch.equal(doubled, out * 2)


def test_autocast_inside() -> None:
    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return attention_forward(q, k, v)

    result = torch.compile(model, fullgraph=True, backend="aot_eager")(*qkv(64))
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, attention_forward(*(t.bfloat16() for t in qkv(64))))


def test_gradients_are_an_error_or_sdpa() -> None:
    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention_forward(q, k, v, is_causal=True)

    q, k, v = qkv(64)
    q.requires_grad_()
    with pytest.raises(RuntimeError, match="Q: must not require a gradient"):
        torch.compile(model, fullgraph=True, backend="aot_eager")(q, k, v)
    torch._dynamo.reset()
    set_default_config(Config(fallback="sdpa"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        result = torch.compile(model, fullgraph=True, backend="aot_eager")(q, k, v)
    (gradient,) = torch.autograd.grad(result.sum(), q)
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), q)[0])


class _Attention(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
        return attention_forward(q, k, v, is_causal="lower_right", block_mask=mask).relu()


class _AttentionByLists(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, counts: Tensor, indices: Tensor) -> Tensor:
        mask = BlockMask(counts, indices, block_size=64)
        return attention_forward(q, k, v, is_causal="lower_right", block_mask=mask).relu()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_export_saves_and_loads_with_a_block_mask() -> None:
    model = _Attention()
    arguments = (*qkv(256), BlockMask.sliding_window(256, 256, 100, block_size=64))
    program = torch.export.export(model, arguments)
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert "blackwell_sparsek.attention_forward.default" in targets
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    other = (*qkv(256), BlockMask.sliding_window(256, 256, 150, block_size=64))
    assert torch.equal(loaded(*other), model(*other))


def test_export_with_dynamic_lengths() -> None:
    model = _AttentionByLists()

    def arguments(q_len: int) -> tuple[Tensor, ...]:
        blocks = -(-q_len // 64)
        mask = BlockMask.from_dense(torch.ones(blocks, blocks, dtype=torch.bool).triu(), 64)
        return (*qkv(q_len), mask.full_counts, mask.full_indices)

    auto = torch.export.Dim.AUTO
    shapes = ({2: auto}, {2: auto}, {2: auto}, {2: auto}, {2: auto, 3: auto})
    program = torch.export.export(model, arguments(256), dynamic_shapes=shapes).module()
    for q_len in (256, 448, 130):
        assert torch.equal(program(*arguments(q_len)), model(*arguments(q_len)))


@pytest.mark.slow
def test_inductor_two_layers() -> None:
    counter = counted("inductor")
    compiled = torch.compile(two_layers, fullgraph=True, dynamic=True, backend=counter)
    for q_len in (65, 130):
        arguments = qkv(q_len)
        torch.testing.assert_close(compiled(*arguments), two_layers(*arguments))
    assert counter.frame_count == 1


@pytest.mark.slow
def test_ahead_of_time_inductor(tmp_path: Any) -> None:
    class Model(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention_forward(q, k, v, is_causal=True)

    length = torch.export.Dim("length", max=4096)
    program = torch.export.export(Model(), qkv(64), dynamic_shapes=({2: length},) * 3)
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "attention.pt2")
    )
    loaded = torch._inductor.aoti_load_package(package)
    for q_len in (64, 100):
        assert torch.equal(loaded(*qkv(q_len)), Model()(*qkv(q_len)))
