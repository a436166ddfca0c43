"""Building a mask never reads back from a GPU.

The meta device stands for a GPU: it has shapes and no contents, so that whatever needs a value on
the host (`.item()`, `bool(tensor)`, `nonzero`, boolean indexing) raises. A dispatch mode besides
sees to it that no operator moves data between host and device.
"""

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask as FlexBlockMask
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from blackwell_sparsek.block_mask import BlockMask


class NoCrossing(TorchDispatchMode):
    """Fails where an operator takes or makes tensors on both sides, or depends on data."""

    forbidden = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in self.forbidden, func
        result = func(*args, **(kwargs or {}))
        devices = {
            leaf.device.type
            for leaf in tree_leaves((args, kwargs, result))
            if isinstance(leaf, torch.Tensor) and leaf.dim() > 0
        }
        assert len(devices) <= 1, f"{func} crosses between {devices}"
        return result


def on_gpu(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device="meta")


def flex_mask() -> FlexBlockMask:
    counts, indices = on_gpu(1, 2, 4), on_gpu(1, 2, 4, 4)
    document = on_gpu(512)
    return FlexBlockMask.from_kv_blocks(
        counts,
        indices,
        counts,
        indices,
        mask_mod=lambda b, h, q, k: (document[q] == document[k]) & (q >= k),
        compute_q_blocks=False,
    )


BUILDERS: dict[str, Callable[[], BlockMask]] = {
    "from_dense": lambda: BlockMask.from_dense(on_gpu(2, 3, 4, 5, dtype=torch.bool)),
    "from_indices": lambda: BlockMask.from_indices(on_gpu(1, 2, 4), on_gpu(1, 2, 4, 3), kv_len=512),
    "from_indices_padded": lambda: BlockMask.from_indices(None, on_gpu(1, 2, 4, 3), kv_len=512),
    "from_bsr": lambda: BlockMask.from_bsr(on_gpu(5), on_gpu(9), kv_len=512),
    "from_bsr_per_head": lambda: BlockMask.from_bsr(
        on_gpu(1, 2, 5), on_gpu(1, 2, 9), kv_len=512, max_blocks_per_row=3
    ),
    "from_flex": lambda: BlockMask.from_flex(flex_mask()),
    "from_flex_bounded": lambda: BlockMask.from_flex(flex_mask(), max_partial_blocks=2),
    "sliding_window": lambda: BlockMask.sliding_window(900, 1000, 128, 7, 30, device="meta"),
    "vertical_slash": lambda: BlockMask.vertical_slash(
        on_gpu(1, 2, 4), on_gpu(1, 2, 5), q_len=900, kv_len=1000
    ),
    "document_ids": lambda: BlockMask.document(on_gpu(2, 900)),
    "cu_seqlens": lambda: BlockMask.document(cu_seqlens=on_gpu(5), q_len=900, max_document_len=300),
    "top_k": lambda: BlockMask.top_k(on_gpu(2, 3, 4, 5, dtype=torch.float32), 2),
    "cumulative_mass": lambda: BlockMask.cumulative_mass(
        on_gpu(2, 3, 4, 5, dtype=torch.bfloat16), 0.9
    ),
    "cumulative_share": lambda: BlockMask.cumulative_mass(
        on_gpu(2, 3, 4, 5, dtype=torch.float32), 0.9, softmax=False
    ),
    "pooled_scores": lambda: BlockMask.top_k(
        BlockMask.pooled_scores(
            on_gpu(1, 4, 512, 64, dtype=torch.float16),
            on_gpu(1, 2, 512, 64, dtype=torch.float16),
            "max",
            is_causal=True,
            per_kv_head=True,
        ),
        3,
    ),
    "strided": lambda: BlockMask.strided(900, 1000, 3, 2, device="meta"),
    "random": lambda: BlockMask.random(900, 1000, 0.3, diagonal=True, device="meta"),
    "update_": lambda: BlockMask.from_dense(on_gpu(1, 2, 4, 4, dtype=torch.bool)).update_(
        on_gpu(1, 2, 4, 4, dtype=torch.bool)
    ),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_building_does_not_synchronise(name: str) -> None:
    with NoCrossing():
        mask = BUILDERS[name]()
        for tensor in mask._tensors():
            assert tensor is None or tensor.device.type == "meta"
        mask.to_dense()


def test_the_stand_in_does_catch_a_synchronisation() -> None:
    for synchronise in (bool, float, torch.nonzero, lambda x: x[x > 0]):
        with NoCrossing(), pytest.raises((RuntimeError, AssertionError)):
            synchronise(on_gpu(1, dtype=torch.float32).squeeze())


def test_shapes_are_those_of_the_cpu() -> None:
    """What a device without contents gives has the shapes that the CPU gives."""
    fake = BlockMask.document(cu_seqlens=on_gpu(5), q_len=900, max_document_len=300)
    shapes = [tuple(tensor.shape) for tensor in fake._tensors()]
    real = BlockMask.document(
        cu_seqlens=torch.tensor([0, 300, 300, 600, 900], dtype=torch.int32),
        q_len=900,
        max_document_len=300,
    )
    assert shapes == [tuple(tensor.shape) for tensor in real._tensors()]


@pytest.mark.gpu
def test_a_captured_graph_replays_with_new_contents() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    dense = torch.zeros((1, 2, 8, 8), dtype=torch.bool, device="cuda")
    BlockMask.from_dense(dense)  # warm the allocator up outside the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mask = BlockMask.from_dense(dense)
    for seed in range(3):
        generator = torch.Generator(device="cuda").manual_seed(seed)
        new = torch.rand(dense.shape, generator=generator, device="cuda") < 0.4
        dense.copy_(new)
        graph.replay()
        assert torch.equal(mask.to_dense(), new)
