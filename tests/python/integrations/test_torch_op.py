"""`torch.ops.blackwell_sparsek.*` and the gate: whatever acts between a call and its kernel."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from blackwell_sparsek import BlockMask, UnsupportedError, attention_forward
from blackwell_sparsek.core import Config, set_default_config
from blackwell_sparsek.fallback import FallbackWarning

OPS = torch.ops.blackwell_sparsek
NAMES = (
    "attention_forward",
    "attention_forward_lse",
    "attention_forward_out",
    "attention_forward_lse_out",
)


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    """q_heads 4, kv_heads 2, q_len 70, kv_len 90, head_dim 32, v_head_dim 24."""
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 4, 70, 32, generator=g),
        torch.randn(2, 2, 90, 32, generator=g),
        torch.randn(2, 2, 90, 24, generator=g),
    )


@pytest.fixture
def block_mask() -> BlockMask:
    """Partial and full blocks, one pattern for both batches and all heads."""
    return BlockMask.sliding_window(70, 90, 40, block_size=64)


@pytest.fixture
def sdpa_fallback() -> Iterator[None]:
    set_default_config(Config(fallback="sdpa"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        yield


def everything(block_mask: BlockMask) -> tuple[Any, ...]:
    """All arguments after q, k, v, none at its default."""
    additive = torch.linspace(-1, 1, 70 * 90).view(70, 90)
    return 0.2, 2, 50, 3, 10.0, additive, *block_mask._native(70, 90)


# ---- the operators -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(name: str, masked: bool, qkv: Any, block_mask: BlockMask) -> None:
    arguments = (*qkv, *(everything(block_mask) if masked else ()))
    if name.endswith("_out"):
        arguments = (torch.empty(2, 4, 70, 24), *arguments)
    report = torch.library.opcheck(getattr(OPS, name).default, arguments)
    assert set(report.values()) == {"SUCCESS"}


def test_operators_equal_the_direct_call(qkv: Any, block_mask: BlockMask) -> None:
    expected, expected_lse = attention_forward(
        *qkv,
        0.2,
        is_causal="lower_right",
        window=(50, 3),
        softcap=10.0,
        attn_mask=torch.linspace(-1, 1, 70 * 90).view(70, 90),
        block_mask=block_mask,
        return_lse=True,
    )
    arguments = (*qkv, *everything(block_mask))
    assert torch.equal(OPS.attention_forward(*arguments), expected)
    result, lse = OPS.attention_forward_lse(*arguments)
    assert torch.equal(result, expected) and torch.equal(lse, expected_lse)
    out = torch.empty_like(expected)
    assert OPS.attention_forward_out(out, *arguments) is None
    assert torch.equal(out, expected)
    out.zero_()
    assert torch.equal(OPS.attention_forward_lse_out(out, *arguments), expected_lse)
    assert torch.equal(out, expected)


def test_out_is_seen_by_autograd(qkv: Any) -> None:
    """A tensor that autograd saved and the call overwrote must not give silent wrong gradients."""
    for through_operator in (False, True):
        out = torch.ones(2, 4, 70, 24)
        factor = torch.ones_like(out, requires_grad=True)
        product = factor * out
        if through_operator:
            OPS.attention_forward_out(out, *qkv)
        else:
            attention_forward(*qkv, out=out)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            product.sum().backward()


# ---- the gate: modes, subclasses, tracing --------------------------------------------------------


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_dispatch_mode_sees_the_operator(qkv: Any) -> None:
    expected = attention_forward(*qkv)
    with _Seen() as seen:
        result = attention_forward(*qkv)
    assert seen.names == ["blackwell_sparsek.attention_forward.default"]
    assert torch.equal(result, expected)


def test_function_mode_sees_the_call_and_its_arguments(qkv: Any) -> None:
    calls: list[Any] = []

    class Mode(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            calls.append((func, kwargs))
            return func(*args, **(kwargs or {}))

    with Mode():
        result = attention_forward(*qkv, is_causal=True, window=(5, -1))
    assert calls[0][0] is attention_forward
    assert calls[0][1]["is_causal"] is True and calls[0][1]["window"] == (5, -1)
    assert torch.equal(result, attention_forward(*qkv, is_causal=True, window=(5, -1)))


def test_function_mode_of_a_default_device(qkv: Any) -> None:
    with torch.device("cpu"):
        assert torch.equal(attention_forward(*qkv), OPS.attention_forward(*qkv))


def test_torch_function_of_another_class_takes_the_call(qkv: Any) -> None:
    class Override:
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return "overridden", func

    assert attention_forward(qkv[0], Override(), qkv[2]) == ("overridden", attention_forward)  # type: ignore[arg-type]


def test_plain_subclass_keeps_its_type(qkv: Any) -> None:
    class Sub(Tensor):
        pass

    q, k, v = qkv
    result = attention_forward(q.as_subclass(Sub), k, v)
    assert type(result) is Sub
    assert torch.equal(result.as_subclass(Tensor), attention_forward(q, k, v))


def test_fake_and_meta_tensors_have_the_shapes_and_read_nothing(qkv: Any) -> None:
    from torch._subclasses import FakeTensor, FakeTensorMode

    mode = FakeTensorMode()
    for convert in (mode.from_tensor, lambda t: t.to("meta")):
        q, k, v = (convert(t) for t in qkv)
        result, lse = attention_forward(q, k, v, return_lse=True)
        assert result.shape == (2, 4, 70, 24) and result.dtype == torch.float32
        assert result.stride() == attention_forward(*qkv).stride()
        assert lse.shape == (2, 4, 70) and lse.dtype == torch.float32
        assert isinstance(result, FakeTensor) or result.is_meta
    with mode, pytest.raises(ValueError, match="Q: must have 4 dimensions"):
        attention_forward(torch.empty(3, 4), torch.empty(3, 4), torch.empty(3, 4))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_fake_results_lie_in_memory_as_real_ones(order: tuple[int, ...]) -> None:
    in_memory = torch.randn(*((2, 3, 6)[dim] for dim in order), 32)
    q = in_memory.permute(*(order.index(dim) for dim in range(3)), 3)
    for queries in (q, q[:, :, ::2], q[:1].expand(2, -1, -1, -1)):
        strides = attention_forward(queries, q, q[..., :24]).stride()
        fake = queries.to("meta"), q.to("meta"), q[..., :24].to("meta")
        assert attention_forward(*fake).stride() == strides
        assert OPS.attention_forward(queries, q, q[..., :24]).stride() == strides


def test_make_fx_records_the_operator(qkv: Any) -> None:
    graph = make_fx(lambda q, k, v: attention_forward(q, k, v, is_causal=True))(*qkv)
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert targets == [OPS.attention_forward.default]
    other = [t * 2 for t in qkv]
    assert torch.equal(graph(*other), attention_forward(*other, is_causal=True))


def test_symbolic_trace_records_the_call(qkv: Any) -> None:
    graph = torch.fx.symbolic_trace(lambda q, k, v: attention_forward(q, k, v, is_causal=True))
    assert torch.equal(graph(*qkv), attention_forward(*qkv, is_causal=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_jit_trace_records_the_operator(qkv: Any) -> None:
    traced = torch.jit.trace(lambda q, k, v: attention_forward(q, k, v), qkv)
    assert "blackwell_sparsek::attention_forward" in str(traced.graph)
    other = tuple(t * 2 for t in qkv)
    assert torch.equal(traced(*other), attention_forward(*other))


def test_lazily_negated_views(qkv: Any) -> None:
    q, k, v = qkv
    negated = torch._neg_view(q)
    assert negated.is_neg()
    assert torch.equal(attention_forward(negated, k, v), attention_forward(-q, k, v))
    assert torch.equal(OPS.attention_forward(negated, k, v), attention_forward(-q, k, v))
    with pytest.raises(ValueError, match="out: must not be a lazily negated view"):
        attention_forward(q, k, v, out=torch._neg_view(torch.empty(2, 4, 70, 24)))


def test_conjugate_views_are_refused(qkv: Any) -> None:
    q, k, v = qkv
    with pytest.raises((TypeError, ValueError), match="Q: "):
        attention_forward(torch.complex(q, q).conj(), k, v)


@pytest.mark.parametrize("case", ["sparse", "jagged", "nested"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_other_layouts_are_refused(case: str, qkv: Any) -> None:
    q, k, v = qkv
    if case == "sparse":
        q = q.to_sparse()
    else:
        layout = torch.jagged if case == "jagged" else torch.strided
        q = torch.nested.nested_tensor([t for t in q], layout=layout)
    with pytest.raises(ValueError, match="Q: must be"):
        attention_forward(q, k, v)


# ---- autocast ------------------------------------------------------------------------------------


@pytest.mark.parametrize("through_operator", [False, True])
def test_autocast(through_operator: bool, qkv: Any) -> None:
    expected = attention_forward(*(t.bfloat16() for t in qkv))
    function = OPS.attention_forward if through_operator else attention_forward
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = function(*qkv)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, expected)


# ---- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("through_operator", [False, True])
def test_requires_grad_is_an_error(position: int, through_operator: bool, qkv: Any) -> None:
    tensors = [t.clone() for t in qkv]
    tensors[position].requires_grad_()
    function = OPS.attention_forward if through_operator else attention_forward
    with pytest.raises(UnsupportedError, match=rf"{'QKV'[position]}: must not require a gradient"):
        function(*tensors)
    with torch.no_grad():
        assert torch.equal(function(*tensors), attention_forward(*qkv))
    with torch.inference_mode():
        assert torch.equal(function(*tensors), attention_forward(*qkv))


def test_requires_grad_of_mask_and_out_are_errors(qkv: Any) -> None:
    with pytest.raises(UnsupportedError, match="attn_mask: must not require a gradient"):
        attention_forward(*qkv, attn_mask=torch.zeros(70, 90, requires_grad=True))
    with pytest.raises(UnsupportedError, match="out: must not require a gradient"):
        attention_forward(*qkv, out=torch.zeros(2, 4, 70, 24, requires_grad=True))


@pytest.mark.parametrize("through_operator", [False, True])
def test_forward_mode_is_an_error(through_operator: bool, qkv: Any) -> None:
    q, k, v = qkv
    function = OPS.attention_forward if through_operator else attention_forward
    with forward_ad.dual_level():
        with pytest.raises(UnsupportedError, match="forward-mode tangent"):
            function(q, forward_ad.make_dual(k, k), v)
        assert torch.equal(function(q, k, v), OPS.attention_forward(q, k, v))
    with pytest.raises(UnsupportedError, match="must not require a gradient"):
        torch.func.jvp(lambda t: function(t, k, v), (q,), (q,))
    with pytest.raises(UnsupportedError, match="must not require a gradient"):
        torch.func.grad(lambda t: function(t, k, v).sum())(q)


@pytest.mark.parametrize("through_operator", [False, True])
def test_sdpa_fallback_is_differentiable(
    through_operator: bool, qkv: Any, sdpa_fallback: None
) -> None:
    q, k, v = (t.clone().requires_grad_() for t in qkv)
    if through_operator:
        result = OPS.attention_forward(q, k, v, 0.2, 1)
    else:
        result = attention_forward(q, k, v, 0.2, is_causal=True)
    gradients = torch.autograd.grad(result.square().sum(), (q, k, v))
    mask = torch.ones(70, 90, dtype=torch.bool).tril()
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, mask, scale=0.2, enable_gqa=True
    )
    for ours, theirs in zip(
        gradients, torch.autograd.grad(expected.square().sum(), (q, k, v)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_functorch_gradients_under_sdpa_fallback(qkv: Any, sdpa_fallback: None) -> None:
    q, k, v = qkv
    gradient = torch.func.grad(lambda t: attention_forward(t, k, v).square().sum())(q)
    leaf = q.clone().requires_grad_()
    expected = torch.nn.functional.scaled_dot_product_attention(leaf, k, v, enable_gqa=True)
    expected.square().sum().backward()
    torch.testing.assert_close(gradient, leaf.grad)


# ---- vmap ----------------------------------------------------------------------------------------


def test_vmap_over_queries_and_keys(qkv: Any, block_mask: BlockMask) -> None:
    q, k, v = qkv
    queries, keys = torch.stack([q, 2 * q, -q], 3), torch.stack([k, -k, 3 * k])
    result, lse = torch.vmap(
        lambda q, k: attention_forward(q, k, v, block_mask=block_mask, return_lse=True),
        in_dims=(3, 0),
    )(queries, keys)
    for i in range(3):
        expected, expected_lse = attention_forward(
            queries[:, :, :, i], keys[i], v, block_mask=block_mask, return_lse=True
        )
        assert torch.equal(result[i], expected) and torch.equal(lse[i], expected_lse)


@pytest.mark.parametrize("shape", [(70, 90), (4, 70, 90), (2, 1, 70, 90), (1, 4, 70, 90)])
def test_vmap_over_masks(shape: tuple[int, ...], qkv: Any) -> None:
    masks = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1)) > 0.3
    result = torch.vmap(lambda m: attention_forward(*qkv, attn_mask=m))(masks)
    for i in range(3):
        assert torch.equal(result[i], attention_forward(*qkv, attn_mask=masks[i]))


def test_vmap_with_a_mask_of_its_own_and_block_masks(qkv: Any) -> None:
    q, k, v = qkv
    mask = torch.rand(2, 4, 70, 90, generator=torch.Generator().manual_seed(1)) > 0.3
    queries = torch.stack([q, 2 * q])
    result = torch.vmap(lambda q: attention_forward(q, k, v, attn_mask=mask))(queries)
    for i in range(2):
        assert torch.equal(result[i], attention_forward(queries[i], k, v, attn_mask=mask))
    dense = torch.tensor([[[True, False], [True, True]], [[True, True], [False, True]]])
    masks = [BlockMask.from_dense(d, 64) for d in dense]
    stacked = torch.utils._pytree.tree_map(lambda *t: torch.stack(t), *masks)
    result = torch.vmap(lambda m: attention_forward(q, k, v, block_mask=m))(stacked)
    for i in range(2):
        assert torch.equal(result[i], attention_forward(q, k, v, block_mask=masks[i]))


def test_vmap_with_out(qkv: Any) -> None:
    q, k, v = qkv
    queries, out = torch.stack([q, 2 * q]), torch.empty(2, 2, 4, 70, 24)
    torch.vmap(lambda q, o: attention_forward(q, k, v, out=o))(queries, out)
    assert torch.equal(out[1], attention_forward(2 * q, k, v))
    with pytest.raises(ValueError, match="out: must have the vmapped dimension"):
        torch.vmap(lambda q: attention_forward(q, k, v, out=out[0]))(queries)


# ---- pytrees, copies, DTensor --------------------------------------------------------------------


def test_block_mask_is_a_pytree(block_mask: BlockMask, tmp_path: Any) -> None:
    leaves, spec = torch.utils._pytree.tree_flatten(block_mask)
    assert len(leaves) == 5
    again = torch.utils._pytree.tree_unflatten(leaves, spec)
    assert repr(again) == repr(block_mask)
    assert torch.equal(again.to_dense_mask(), block_mask.to_dense_mask())
    torch.save(block_mask, tmp_path / "mask.pt")
    loaded = torch.load(tmp_path / "mask.pt", weights_only=True)
    assert torch.equal(loaded.to_dense_mask(), block_mask.to_dense_mask())
    assert torch.equal(copy.deepcopy(block_mask).to_dense(), block_mask.to_dense())


@pytest.fixture
def mesh() -> Iterator[Any]:
    """Two ranks of which this process is the first: torch's process group that sends nothing."""
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("this torch is built without torch.distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield init_device_mesh("cpu", (2,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("dim", [0, 1])
def test_dtensor_shards_batch_and_heads(dim: int, mesh: Any, qkv: Any) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    def shard(tensor: Tensor, placement: Any) -> Any:
        return distribute_tensor(tensor, mesh, [placement], src_data_rank=None)

    mask = torch.rand(1, 4, 70, 90, generator=torch.Generator().manual_seed(1)) > 0.3
    blocks = BlockMask.from_dense(torch.tensor([[True, False], [True, True]]), 64)
    sharded_blocks = torch.utils._pytree.tree_map(lambda t: shard(t, Replicate()), blocks)
    result, lse = attention_forward(
        *(shard(t, Shard(dim)) for t in qkv),
        attn_mask=shard(mask, Replicate()),
        block_mask=sharded_blocks,
        return_lse=True,
    )
    assert result.placements == (Shard(dim),) and lse.placements == (Shard(dim),)
    local = [t.chunk(2, dim)[0] for t in qkv]
    expected, expected_lse = attention_forward(
        *local,
        attn_mask=mask if dim == 0 else mask[:, :2],
        block_mask=blocks,
        return_lse=True,
    )
    assert torch.equal(result.to_local(), expected)
    assert torch.equal(lse.to_local(), expected_lse)


def test_dtensor_never_shards_lengths(mesh: Any, qkv: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    q, k, v = (distribute_tensor(t, mesh, [Shard(2)], src_data_rank=None) for t in qkv)
    result = attention_forward(q, k, v)
    assert result.placements[0] != Shard(2)
    with pytest.raises(NotImplementedError, match="sharding strategy"):
        attention_forward(q, k, v, out=result)
