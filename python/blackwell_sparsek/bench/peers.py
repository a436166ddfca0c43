"""What a case is timed beside: torch's SDPA by backend, FlexAttention, other libraries, ourselves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from blackwell_sparsek import core
from blackwell_sparsek.attention import attention_forward
from blackwell_sparsek.bench import other_libraries
from blackwell_sparsek.bench.cases import Case, Inputs
from blackwell_sparsek.bench.torch_attention import sdpa_call

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

OURS = "blackwell_sparsek"
OURS_DENSE = "blackwell_sparsek_dense"
_BACKENDS = {
    "sdpa_cudnn": "CUDNN_ATTENTION",
    "sdpa_flash": "FLASH_ATTENTION",
    "sdpa_efficient": "EFFICIENT_ATTENTION",
}
_MAX_MASK_PAIRS = 2**28  # above, a materialised mask is no peer: gigabytes, and mostly reading it
_MAX_EVALUATED_PAIRS = 2**33  # by create_block_mask, a byte and more for each


class Peer(NamedTuple):
    """Something timed: attention of (Q, K, V) with the case's options bound, and the torch backend or
    the kernel of ours it is forced to ("" = any), outside what is timed. `same` tells whether it
    computes what the case asks for, or all pairs (the dense time of the law)."""

    name: str
    attention: Attention
    backend: str = ""
    same: bool = True
    kernel: str = ""

    def forced(self) -> AbstractContextManager[Any]:
        """The backend or kernel, in force."""
        if self.kernel:
            return _forced_kernel(self.kernel)
        if not self.backend:
            return nullcontext()
        from torch.nn.attention import SDPBackend, sdpa_kernel

        context: AbstractContextManager[Any] = sdpa_kernel(getattr(SDPBackend, self.backend))
        return context

    def bound(self, inputs: Inputs) -> Callable[[], Tensor]:
        """A call without arguments."""
        return functools.partial(self.attention, *inputs[:3])  # the least that a call can add


class Peers(NamedTuple):
    """The peers of a case, and why others are missing."""

    found: list[Peer]
    missing: dict[str, str]


def ours(inputs: Inputs) -> Peer:
    """The kernel of this library."""
    options = inputs.options
    return Peer(OURS, functools.partial(attention_forward, **options))


def variants(inputs: Inputs, kernels: Sequence[str]) -> list[Peer]:
    """Kernels of this library by name, each as a side of its own."""
    attention = ours(inputs).attention
    return [Peer(f"{OURS}:{kernel}", attention, kernel=kernel) for kernel in kernels]


@contextmanager
def _forced_kernel(kernel: str) -> Iterator[None]:
    before = core.get_default_config()
    core.set_default_config(dataclasses.replace(before, kernel=kernel))
    try:
        yield
    finally:
        core.set_default_config(before)


def cpu_peers(case: Case, inputs: Inputs) -> Peers:
    """`sdpa` computes the same; `sdpa_dense` (where the case skips pairs) computes all of them."""
    found, missing = [], {}
    if case.softcap is None:
        found.append(Peer("sdpa", sdpa_call(case, inputs)))
    else:
        missing["sdpa"] = "SDPA has no softcap"
    if _skips_pairs(case):
        found.append(Peer("sdpa_dense", sdpa_call(case, inputs, masked=False), same=False))
    return Peers(found, missing)


def gpu_peers(case: Case, inputs: Inputs, wanted: Callable[[str], bool] = lambda _: True) -> Peers:
    """SDPA forced to one backend at a time, never to its fall-back in plain matrix products;
    FlexAttention, compiled; other libraries that are installed; and where the case has a mask, the
    same tensors without one, by us and by SDPA: `..._dense`.

    Args:
        wanted: which names are asked for at all.
    """
    found: list[Peer] = []
    missing: dict[str, str] = {}

    def offer(
        name: str, make: Callable[[], Attention], backend: str = "", same: bool = True
    ) -> None:
        if not wanted(name):
            return
        try:
            found.append(Peer(name, make(), backend, same))
        except Exception as error:
            missing[name] = reason(error)

    for name, backend in _BACKENDS.items():
        if name != "sdpa_efficient" or case.mask or case.window or case.blocks:
            offer(name, functools.partial(_sdpa, case, inputs, name), backend)
    if case.mask or case.window or case.blocks or case.softcap:
        offer(OURS_DENSE, lambda: attention_forward, same=False)
        for name in ("sdpa_cudnn", "sdpa_flash"):
            dense = functools.partial(sdpa_call, case, inputs, masked=False)
            offer(f"{name}_dense", dense, _BACKENDS[name], same=False)
    if case.blocks or case.window or case.is_causal:
        offer("flex", functools.partial(_flex, case, inputs))
    for name, make in other_libraries.ATTENTIONS.items():
        offer(name, functools.partial(make, case))
    return Peers(found, missing)


def reason(error: BaseException) -> str:
    """An error as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) < 400 else text[:400] + ' ...'}"


def _skips_pairs(case: Case) -> bool:
    return case.blocks is not None or case.window is not None


def _sdpa(case: Case, inputs: Inputs, name: str) -> Attention:
    if case.softcap is not None:
        raise ValueError("SDPA has no softcap")
    own_rules = not (case.mask or case.window or case.blocks)
    if case.is_causal == "lower_right" and own_rules and case.q_len != case.kv_len:
        return _sdpa_lower_right(case, name)
    if case.window or case.blocks or case.is_causal == "lower_right":
        heads = case.q_heads if case.blocks else 1
        pairs = heads * case.q_len * case.kv_len
        if pairs > _MAX_MASK_PAIRS:
            raise ValueError(f"SDPA would need a mask of {pairs / 1e9:.1f} billion pairs")
    return sdpa_call(case, inputs)


def _sdpa_lower_right(case: Case, name: str) -> Attention:
    from torch.nn.attention.bias import causal_lower_right

    if name != "sdpa_flash":
        raise ValueError("torch's lower-right causal bias takes SDPA's flash backend only")
    bias = causal_lower_right(case.q_len, case.kv_len)
    grouped = case.q_heads != case.kv_heads
    return functools.partial(scaled_dot_product_attention, attn_mask=bias, enable_gqa=grouped)


# ---- FlexAttention ----------------------------------------------------------------------------


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    import torch._dynamo
    from torch.nn.attention.flex_attention import flex_attention

    # With fullgraph, too many recompilations are an error and not a silent eager fall-back; and a
    # bench of many shapes is no reason to stop at eight.
    for limit in ("recompile_limit", "cache_size_limit"):
        if hasattr(torch._dynamo.config, limit):
            setattr(torch._dynamo.config, limit, 1000)
            break
    compiled: Callable[..., Tensor] = torch.compile(flex_attention, fullgraph=True, dynamic=False)
    return compiled


def _flex(case: Case, inputs: Inputs) -> Attention:
    if case.mask or case.softcap:
        raise ValueError("FlexAttention's peer is made for causal, window and block masks only")
    mask = flex_block_mask(case, inputs)
    compiled = _compiled_flex()
    grouped = case.q_heads != case.kv_heads

    options: dict[str, int] | None = None
    if min(mask.BLOCK_SIZE) < 128:  # its own tiles may not be larger than the mask's blocks
        options = dict(zip(("BLOCK_M", "BLOCK_N"), mask.BLOCK_SIZE, strict=True))
    return functools.partial(compiled, block_mask=mask, enable_gqa=grouped, kernel_options=options)


def flex_mask_mod(case: Case, inputs: Inputs) -> Callable[..., Tensor]:
    """The case's boolean rules as FlexAttention's mask_mod(batch, head, q, k)."""
    offset = 0 if case.is_causal in (True, "upper_left") else case.kv_len - case.q_len
    rules: list[Callable[..., Tensor]] = []
    if case.is_causal:
        rules.append(lambda b, h, q, k: k <= q + offset)
    if case.window is not None:
        left, right = case.window
        if left >= 0:
            rules.append(lambda b, h, q, k: k >= q + offset - left)
        if right >= 0:
            rules.append(lambda b, h, q, k: k <= q + offset + right)
    blocks = case.blocks
    if blocks is not None and blocks.pattern == "window":
        reach, sink = blocks.window, blocks.sink
        shift = case.kv_len - case.q_len
        rules.append(lambda b, h, q, k: (k <= q + shift) & ((k >= q + shift - reach) | (k < sink)))
    elif blocks is not None and blocks.pattern == "document":
        length = blocks.window
        rules.append(lambda b, h, q, k: q // length == k // length)
    elif blocks is not None:
        dense = inputs.options["block_mask"].to_dense()
        block_q, block_k = blocks.size
        group = case.q_heads // dense.shape[1]
        rules.append(lambda b, h, q, k: dense[0, h // group, q // block_q, k // block_k])

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        allowed = rules[0](b, h, q, k)
        for rule in rules[1:]:
            allowed = allowed & rule(b, h, q, k)
        return allowed

    return mask_mod


def flex_block_mask(case: Case, inputs: Inputs) -> Any:
    """FlexAttention's BlockMask of the case. Random blocks per head go around `create_block_mask`,
    which needs memory for every pair of every head: from the lists, as a user with lists would."""
    from torch.nn.attention import flex_attention

    blocks = case.blocks
    if blocks is None or blocks.pattern != "random":
        return create_flex_block_mask(case, inputs)
    if case.window is not None or case.is_causal not in (False, True, "upper_left"):
        raise ValueError("FlexAttention's peer of random blocks takes upper-left causal besides")
    dense = inputs.options["block_mask"].to_dense()
    dense = dense.repeat_interleave(case.q_heads // dense.shape[1], 1)
    block_q, block_k = blocks.size
    partial, full, mod = torch.zeros_like(dense), dense, None
    if case.is_causal:
        q = torch.arange(dense.shape[2], device=dense.device).view(-1, 1) * block_q
        k = torch.arange(dense.shape[3], device=dense.device) * block_k
        full = dense & (k + block_k - 1 <= q)
        partial = dense & (k <= q + block_q - 1) & ~full
        mod = _causal_mod
    return flex_attention.BlockMask.from_kv_blocks(
        *_ordered(partial),
        *_ordered(full),
        BLOCK_SIZE=blocks.size,
        mask_mod=mod,
        seq_lengths=(case.q_len, case.kv_len),
    )


def create_flex_block_mask(case: Case, inputs: Inputs) -> Any:
    """`create_block_mask` of the case's rules, in blocks of the case's size, else of 128."""
    from torch.nn.attention.flex_attention import create_block_mask

    per_head = case.blocks is not None and case.blocks.pattern == "random"
    heads = case.q_heads if per_head else 1
    pairs = heads * case.q_len * case.kv_len
    if pairs > _MAX_EVALUATED_PAIRS:
        raise ValueError(f"create_block_mask evaluates {pairs / 1e9:.1f} billion pairs at once")
    return create_block_mask(
        flex_mask_mod(case, inputs),
        None,
        heads if per_head else None,
        case.q_len,
        case.kv_len,
        device=inputs.Q.device,
        BLOCK_SIZE=case.blocks.size if case.blocks else 128,
    )


def _causal_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return k <= q


def _ordered(dense: Tensor) -> tuple[Tensor, Tensor]:
    """Counts, and all block indices with the listed ones first: FlexAttention wants full width."""
    counts = dense.sum(-1, dtype=torch.int32)
    indices = dense.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return counts, indices
