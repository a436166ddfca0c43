"""The builders of `BlockMask` on a GPU: the CPU's lists, one launch, no synchronisation, replay.

With `-s` the last test prints a table of times.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import block_mask_cases as cases
from blackwell_sparsek import _C, attention_forward
from blackwell_sparsek.block_mask import BlockMask

CUDA = torch.device("cuda")
CPU = torch.device("cpu")

pytestmark = pytest.mark.gpu


def _why_not() -> str | None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        return "needs a GPU of compute capability 9.0"
    if not (Path(_C.__file__).parent / "kernels/source.digest").is_file():
        return "this build has no kernel sources: torch operations build the masks"
    return None


@pytest.fixture(autouse=True)
def _skip() -> None:
    if why := _why_not():
        pytest.skip(why)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The kinds that kernels built, in order; asking for one that none takes is a failure."""
    built: list[str] = []
    native = _C.build_block_mask

    def spy(kind: str, *arguments: object) -> object:
        result = native(kind, *arguments)
        assert result is not NotImplemented, f"no kernel took {kind} {arguments}"
        built.append(kind)
        return result

    monkeypatch.setattr(_C, "build_block_mask", spy)
    yield built


def test_lengths_beyond_32_bits_are_left_to_torch() -> None:
    rows = torch.zeros(1, 1, 1, 16, device=CUDA, dtype=torch.float16).expand(1, 1, 2**32 + 64, 16)
    K = torch.zeros(1, 1, 64, 16, device=CUDA, dtype=torch.float16)
    assert _C.pooled_scores(rows, K, 64, 64, False, 1.0, False, None) is NotImplemented


@pytest.mark.parametrize("start", range(0, 200, 20))
@pytest.mark.parametrize("builder", cases.BUILDERS)
def test_gives_the_lists_of_the_cpu(builder: str, start: int, kernels: list[str]) -> None:
    for seed in range(start, start + 20):
        build = cases.case(builder, seed)
        kernels.clear()
        mask = build(CUDA)
        assert kernels == [builder], seed
        cases.assert_same(mask, build(CPU))


def test_a_narrower_mask_is_updated_in_place(kernels: list[str]) -> None:
    dense = torch.zeros((1, 2, 4, 70), dtype=torch.bool, device=CUDA)
    dense[..., 3] = True
    mask = BlockMask.from_indices(None, torch.full((1, 2, 4, 5), 3, device=CUDA), kv_blocks=70)
    pointers = (mask.full_counts.data_ptr(), mask.full_indices.data_ptr())
    dense[:, 1, :, 60:64] = True
    assert mask.update_(dense) is mask
    assert (mask.full_counts.data_ptr(), mask.full_indices.data_ptr()) == pointers
    assert torch.equal(mask.to_dense(), dense)
    assert kernels == ["lists", "dense"]


def test_random_masks_are_the_best_of_torchs_random_scores(kernels: list[str]) -> None:
    for seed, diagonal in enumerate((False, True)):
        generator = torch.Generator(CUDA).manual_seed(seed)
        mask = BlockMask.random(
            1000, 3000, 0.3, heads=4, diagonal=diagonal, generator=generator, device=CUDA
        )
        generator.manual_seed(seed)
        scores = torch.rand(mask.shape, generator=generator, device=CUDA)
        expected = BlockMask._top_k(scores.cpu(), 7, (128, 128), 1000, 3000, diagonal)
        cases.assert_same(mask, expected)
    assert set(kernels) == {"top_k"}


def test_autocast_and_scores_with_gradients_take_the_kernel(kernels: list[str]) -> None:
    scores = torch.randn((1, 2, 8, 64), device=CUDA, requires_grad=True)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        BlockMask.top_k(scores, 5)
    assert kernels == ["top_k"]


def test_a_row_is_the_same_wherever_it_stands() -> None:
    """Deterministic, and independent of other rows."""
    scores = torch.randn((2, 3, 8, 500), device=CUDA)
    first, again = (BlockMask.cumulative_mass(scores, 0.7) for _ in range(2))
    assert torch.equal(first.full_indices, again.full_indices)
    alone = BlockMask.cumulative_mass(scores[1:, 2:, 5:6], 0.7)
    assert torch.equal(alone.full_indices[0, 0, 0], first.full_indices[1, 2, 5])


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pooled_scores(pool: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    native, answers = _C.pooled_scores, []
    monkeypatch.setattr(
        _C, "pooled_scores", lambda *args: answers.append(native(*args)) or answers[-1]
    )
    rng = random.Random(f"{pool} {dtype}")
    for _ in range(40):
        kv_heads, group = rng.choice((1, 2, 3)), rng.choice((1, 2, 4))
        q_len, kv_len = rng.choice((1, 64, 300, 555)), rng.choice((1, 65, 400, 5000))
        head_dim = rng.choice((8, 24, 64, 72, 128, 192, 256))
        generator = torch.Generator().manual_seed(rng.randrange(1 << 40))
        q = torch.randn((2, q_len, kv_heads * group, head_dim), generator=generator).to(dtype)
        k = torch.randn((2, kv_heads, kv_len, head_dim), generator=generator).to(dtype)
        options = {
            "block_size": rng.choice(cases.SIZES),
            "is_causal": rng.choice((False, True, "lower_right")),
            "per_kv_head": rng.random() < 0.5,
        }
        q = q.transpose(1, 2)  # a view, not a copy
        scores = BlockMask.pooled_scores(q.to(CUDA), k.to(CUDA), pool, **options)
        expected = BlockMask.pooled_scores(q, k, pool, **options)
        torch.testing.assert_close(scores.cpu(), expected, rtol=1e-4, atol=2e-5)
    assert len(answers) == 40 and all(answer is not NotImplemented for answer in answers)


@pytest.fixture
def no_synchronisation() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


# Inputs on the GPU whose contents change, and a mask of them.
Changing = tuple[Callable[[random.Random], Tensor], Callable[[Tensor], BlockMask]]


def _draw(shape: tuple[int, ...], density: float) -> Callable[[random.Random], Tensor]:
    def draw(rng: random.Random) -> Tensor:
        generator = torch.Generator().manual_seed(rng.randrange(1 << 40))
        return torch.rand(shape, generator=generator) < density

    return draw


def _scores(rng: random.Random) -> Tensor:
    return torch.randn((1, 3, 7, 90), generator=torch.Generator().manual_seed(rng.randrange(99)))


def _boundaries(rng: random.Random) -> Tensor:
    return torch.tensor([0, *sorted(rng.randrange(900) for _ in range(6)), 900], dtype=torch.int32)


def _indices(rng: random.Random) -> Tensor:
    return torch.tensor([rng.randrange(-1, 64) for _ in range(2 * 5 * 9)]).view(1, 2, 5, 9)


CHANGING: dict[str, Changing] = {
    "dense": (_draw((1, 3, 8, 70), 0.4), BlockMask.from_dense),
    "lists": (_indices, lambda x: BlockMask.from_indices(None, x, kv_blocks=64)),
    "top_k": (_scores, lambda x: BlockMask.top_k(x, 9)),
    "mass": (_scores, lambda x: BlockMask.cumulative_mass(x, 0.8)),
    "segments": (_boundaries, lambda x: BlockMask.document(cu_seqlens=x, q_len=900)),
    "ids": (
        lambda rng: _boundaries(rng)[1:].repeat_interleave(40),
        lambda x: BlockMask.document(x),
    ),
    "vertical_slash": (
        lambda rng: _indices(rng).view(1, 2, 45),
        lambda x: BlockMask.vertical_slash(x, x, q_len=500, kv_len=600),
    ),
}


@pytest.mark.parametrize("kind", CHANGING)
def test_a_graph_replays_with_new_contents(kind: str, kernels: list[str]) -> None:
    draw, build = CHANGING[kind]
    rng = random.Random(kind)
    buffer = draw(rng).to(CUDA)
    build(buffer)  # loads the kernel
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mask = build(buffer)
    assert kernels == [kind, kind]
    for _ in range(4):
        new = draw(rng)
        buffer.copy_(new)
        graph.replay()
        torch.cuda.synchronize()
        cases.assert_same(mask, build(new))


@pytest.mark.parametrize("kind", CHANGING)
def test_nothing_waits_for_the_device(kind: str, no_synchronisation: None) -> None:
    torch.cuda.set_sync_debug_mode("default")
    draw, build = CHANGING[kind]
    buffer = draw(random.Random(0)).to(CUDA)
    build(buffer)
    torch.cuda.set_sync_debug_mode("error")
    build(buffer)
    BlockMask.sliding_window(900, 900, 100, device=CUDA)
    BlockMask.strided(900, 900, 3, device=CUDA)


def test_builds_on_the_stream_that_is_current() -> None:
    """A builder on a side stream sees what that stream wrote before."""
    stream = torch.cuda.Stream()
    dense = torch.zeros((1, 16, 128, 128), dtype=torch.bool, device=CUDA)
    BlockMask.from_dense(dense)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        dense.fill_(True)
        mask = BlockMask.from_dense(dense)
    stream.synchronize()
    assert mask.full_counts.min() == 128


def test_a_call_reads_lists_that_a_mask_got_later() -> None:
    """The prepared lists follow an assignment to the mask."""
    torch.manual_seed(0)
    q, k, v = (torch.randn((1, 1, 256, 64), dtype=torch.float16, device=CUDA) for _ in range(3))
    first = torch.tensor([[True, False], [True, True]], device=CUDA)
    mask, other = BlockMask.from_dense(first), BlockMask.from_dense(~first | first.T)
    try:
        before = attention_forward(q, k, v, block_mask=mask)
    except RuntimeError as error:
        pytest.skip(f"no kernel takes a block mask by itself here: {error}")
    expected = attention_forward(q, k, v, block_mask=other)
    mask.full_counts, mask.full_indices = other.full_counts, other.full_indices
    after = attention_forward(q, k, v, block_mask=mask)
    assert torch.equal(after, expected) and not torch.equal(after, before)


def _graph_us(build: Callable[[], object], repeats: int = 20) -> float:
    """Microseconds a call of a graph of `repeats` calls, the least of several replays."""
    build()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    kept = []
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            kept.append(build())
    best = float("inf")
    for _ in range(20):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) * 1e3 / repeats)
    return best


def _host_us(build: Callable[[], object]) -> float:
    import time

    best = float("inf")
    for _ in range(30):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20):
            build()
        best = min(best, (time.perf_counter() - start) / 20 * 1e6)
    return best


def test_times_at_16k(capsys: pytest.CaptureFixture[str]) -> None:
    """B1 H16 S16384, blocks of 128: builds well under ten microseconds of GPU time."""
    length, heads = 16384, 16
    torch.manual_seed(0)
    shape = (1, heads, length // 128, length // 128)
    dense = torch.rand(shape, device=CUDA) < 0.11
    scores = torch.randn(shape, device=CUDA)
    low = scores.bfloat16()
    top = scores.topk(14).indices.int()
    columns = torch.randint(0, length, (1, heads, 1000), device=CUDA, dtype=torch.int32)
    slashes = torch.randint(0, length, (1, heads, 200), device=CUDA, dtype=torch.int32)
    boundaries = torch.arange(0, length + 1, 1024, device=CUDA, dtype=torch.int32)
    ids = torch.arange(length, device=CUDA, dtype=torch.int32) // 1024
    q, k = (
        torch.randn((1, heads, length, 128), device=CUDA, dtype=torch.bfloat16) for _ in range(2)
    )
    builders: dict[str, Callable[[], object]] = {
        "from_dense": lambda: BlockMask.from_dense(dense),
        "top_k fp32": lambda: BlockMask.top_k(scores, 14),
        "top_k bf16": lambda: BlockMask.top_k(low, 14),
        "cumulative_mass": lambda: BlockMask.cumulative_mass(scores, 0.9),
        "from_indices": lambda: BlockMask.from_indices(None, top, kv_blocks=128),
        "sliding_window 1024 + sink": lambda: BlockMask.sliding_window(
            length, length, 1024, sink=64, device=CUDA
        ),
        "strided": lambda: BlockMask.strided(length, length, 8, 2, device=CUDA),
        "vertical_slash 1000 + 200": lambda: BlockMask.vertical_slash(
            columns, slashes, q_len=length, kv_len=length, block_size=128
        ),
        "document cu_seqlens": lambda: BlockMask.document(
            cu_seqlens=boundaries, q_len=length, max_document_len=1024
        ),
        "document ids": lambda: BlockMask.document(ids, max_document_len=1024),
        "random": lambda: BlockMask.random(length, length, 0.11, heads=heads, device=CUDA),
        "pooled_scores mean": lambda: BlockMask.pooled_scores(q, k, is_causal=True),
        "pooled_scores max": lambda: BlockMask.pooled_scores(q, k, "max", is_causal=True),
    }
    times = {name: (_graph_us(build), _host_us(build)) for name, build in builders.items()}
    with capsys.disabled():
        print(f"\nB1 H16 S16384 on {torch.cuda.get_device_name()}: us in a graph, us to issue")
        for name, (gpu, host) in times.items():
            print(f"  {name:28} {gpu:8.2f} {host:8.2f}")
    for name in ("from_dense", "top_k fp32", "top_k bf16"):
        assert times[name][0] < 10, f"{name}: {times[name][0]:.1f} us"
