"""torch's own scaled_dot_product_attention and varlen_attn through the registry's entry "BSK"."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.attention import (
    activate_flash_attention_impl,
    current_flash_attention_impl,
    list_flash_attention_impls,
    restore_flash_attention_impl,
)
from torch.nn.functional import scaled_dot_product_attention

from blackwell_sparsek import UnsupportedError, attention_forward, flash_attn
from blackwell_sparsek.backends import register_sdpa, sdpa
from blackwell_sparsek.core import Config, set_default_config


@pytest.fixture
def active() -> Iterator[None]:
    register_sdpa()
    activate_flash_attention_impl("BSK")
    yield
    restore_flash_attention_impl()


@pytest.fixture
def reasons(caplog: pytest.LogCaptureFixture) -> Any:
    """Why torch's own kernel took calls, as logged."""
    caplog.set_level(logging.DEBUG, logger="blackwell_sparsek")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "blackwell_sparsek"]


def qkv(head_dim: int = 32, kv_heads: int = 2, kv_len: int = 57) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = ((2, 4, 40, head_dim), *((2, kv_heads, kv_len, head_dim),) * 2)
    return [torch.randn(shape, generator=g) for shape in shapes]


def test_nothing_changes_before_activation() -> None:
    expected = scaled_dot_product_attention(*qkv(), enable_gqa=True)
    register_sdpa()
    assert "BSK" in list_flash_attention_impls()
    assert current_flash_attention_impl() is None
    assert torch.equal(scaled_dot_product_attention(*qkv(), enable_gqa=True), expected)


def test_import_registers_nothing() -> None:
    code = (
        "import blackwell_sparsek.backends, torch;"
        "from torch.nn.attention import list_flash_attention_impls as names;"
        "assert 'BSK' not in names(), names()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("masking", ["none", "causal", "bool", "additive"])
def test_sdpa_is_ours_while_active(masking: str, active: None, reasons: Any) -> None:
    assert current_flash_attention_impl() == "BSK"
    tensors = qkv()
    mask = torch.rand(2, 1, 40, 57, generator=torch.Generator().manual_seed(1)) > 0.3
    ours: dict[str, Any] = {}
    if masking == "causal":
        ours["is_causal"] = True
    elif masking == "bool":
        ours["attn_mask"] = mask
    elif masking == "additive":
        ours["attn_mask"] = mask.float()
    result = scaled_dot_product_attention(*tensors, **ours, scale=0.2, enable_gqa=True)
    assert torch.equal(result, attention_forward(*tensors, 0.2, **ours))
    assert reasons() == []


def test_restore_brings_torch_back(reasons: Any) -> None:
    tensors = qkv()
    register_sdpa()
    expected = scaled_dot_product_attention(*tensors, enable_gqa=True)
    activate_flash_attention_impl("BSK")
    set_default_config(Config(kernel="cpu_reference"))
    inside = scaled_dot_product_attention(*tensors, enable_gqa=True)
    assert torch.equal(inside, attention_forward(*tensors))
    restore_flash_attention_impl()
    assert torch.equal(scaled_dot_product_attention(*tensors, enable_gqa=True), expected)


def test_what_we_do_not_take_goes_to_torch(active: None, reasons: Any) -> None:
    restore_flash_attention_impl()
    odd, double = qkv(head_dim=20), [t.double() for t in qkv()]
    expected = [scaled_dot_product_attention(*t, enable_gqa=True) for t in (odd, double)]
    activate_flash_attention_impl("BSK")
    for tensors, torchs in zip((odd, double), expected, strict=True):
        assert torch.equal(scaled_dot_product_attention(*tensors, enable_gqa=True), torchs)
    said = reasons()
    assert len(said) == 2 and "head_dim" in said[0], said


def test_gradients_are_torchs_backward_on_our_forward(active: None, reasons: Any) -> None:
    tensors = [t.requires_grad_() for t in qkv(kv_heads=4, kv_len=40)]
    gradients = torch.autograd.grad(
        scaled_dot_product_attention(*tensors, is_causal=True).square().sum(), tensors
    )
    assert reasons() == []
    restore_flash_attention_impl()
    expected = torch.autograd.grad(
        scaled_dot_product_attention(*tensors, is_causal=True).square().sum(), tensors
    )
    for ours, torchs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)
    activate_flash_attention_impl("BSK")


def test_gradients_with_rows_that_a_mask_empties(active: None, reasons: Any) -> None:
    tensors = [t.requires_grad_() for t in qkv(kv_heads=4)]
    mask = torch.ones(40, 57, dtype=torch.bool)
    mask[3] = False
    result = scaled_dot_product_attention(*tensors, mask)
    gradients = torch.autograd.grad(result.square().sum(), tensors)
    assert all(g.isfinite().all() for g in gradients)
    assert any("gradients under a mask" in r for r in reasons())


def test_no_recursion_with_the_sdpa_fallback(active: None, reasons: Any) -> None:
    """Our fallback calls SDPA, which calls us, which must call torch: not the fallback again."""
    set_default_config(Config(kernel="cpu_reference", fallback="sdpa"))
    tensors = [t.requires_grad_() for t in qkv(kv_heads=4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = attention_forward(*tensors)
    result.sum().backward()
    assert tensors[0].grad is not None


def test_compile_with_the_entry_active(active: None) -> None:
    torch._dynamo.reset()
    tensors = qkv()
    compiled = torch.compile(
        lambda q, k, v: scaled_dot_product_attention(q, k, v, enable_gqa=True) + 1,
        backend="aot_eager",
    )
    torch.testing.assert_close(compiled(*tensors), attention_forward(*tensors) + 1)


def _is_overridden(name: str) -> bool:
    return f"aten/{name}/CPU" in torch.library._impls


def test_an_operator_that_torch_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with torch 2.11, which lacks one that torch 2.13 has."""
    first, *_, last = sdpa._OVERRIDES["CPU"]
    overrides = {**sdpa._OVERRIDES["CPU"], "_no_such_operator": sdpa._flash_inplace}
    monkeypatch.setitem(sdpa._OVERRIDES, "CPU", overrides)
    register_sdpa()
    activate_flash_attention_impl("BSK")
    assert _is_overridden(first) and _is_overridden(last)
    assert not _is_overridden("_no_such_operator")
    tensors = qkv()
    result = scaled_dot_product_attention(*tensors, enable_gqa=True)
    assert torch.equal(result, attention_forward(*tensors))
    restore_flash_attention_impl()
    assert not _is_overridden(first) and not _is_overridden(last)


def test_a_failed_activation_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = qkv()
    expected = scaled_dot_product_attention(*tensors, enable_gqa=True)
    with monkeypatch.context() as broken:
        broken.setattr(sdpa, "_is_operator", lambda name: True)
        overrides = {**sdpa._OVERRIDES["CPU"], "_no_such_operator": sdpa._flash_inplace}
        broken.setitem(sdpa._OVERRIDES, "CPU", overrides)
        register_sdpa()
        with pytest.raises(RuntimeError, match="_no_such_operator") as failure:
            activate_flash_attention_impl("BSK")
        assert failure.traceback  # which holds the frames, and what they refer to, alive
    assert current_flash_attention_impl() is None
    assert not any(_is_overridden(name) for name in overrides)
    assert torch.equal(scaled_dot_product_attention(*tensors, enable_gqa=True), expected)
    activate_flash_attention_impl("BSK")
    restore_flash_attention_impl()


# ---- packed sequences ----------------------------------------------------------------------------

OFFSETS_Q = torch.tensor([0, 5, 5, 45], dtype=torch.int32)
OFFSETS_K = torch.tensor([0, 9, 12, 52], dtype=torch.int32)


@pytest.mark.parametrize("window", [(-1, -1), (-1, 0), (7, 0), (3, 4)])
def test_varlen_attn_on_the_cpu(window: tuple[int, int], active: None) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    q, k, v = torch.randn(45, 4, 32), torch.randn(52, 2, 32), torch.randn(52, 2, 32)
    out, lse = varlen.varlen_attn(
        q,
        k,
        v,
        OFFSETS_Q,
        OFFSETS_K,
        40,
        40,
        window_size=window,
        enable_gqa=True,
        return_aux=varlen.AuxRequest(lse=True),
    )
    expected, expected_lse, _ = flash_attn.flash_attn_varlen_func(
        q, k, v, OFFSETS_Q, OFFSETS_K, 40, 40, window_size=window, return_attn_probs=True
    )
    assert torch.equal(out, expected) and torch.equal(lse, expected_lse)


def test_varlen_attn_with_used_lengths_and_out(active: None) -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    q, k, v = torch.randn(45, 4, 32), torch.randn(52, 4, 32), torch.randn(52, 4, 32)
    used = torch.tensor([4, 1, 33], dtype=torch.int32)
    result = varlen.varlen_attn(q, k, v, OFFSETS_Q, OFFSETS_K, 40, 40, seqused_k=used)
    last = flash_attn.flash_attn_func(q[None, 5:], k[None, 12:45], v[None, 12:45])
    assert torch.equal(result[5:], last[0])
    out = torch.empty_like(q)
    varlen.varlen_attn_out(out, q, k, v, OFFSETS_Q, OFFSETS_K, 40, 40, seqused_k=used)
    assert torch.equal(out, result)
    with pytest.raises(UnsupportedError, match="no kernel for block_table"):
        varlen.varlen_attn(
            q, k[:, None], v[:, None], OFFSETS_Q, OFFSETS_K, 40, 40,
            seqused_k=used, block_table=torch.zeros(3, 40, dtype=torch.int32),
        )  # fmt: skip


# ---- the CUDA overrides: registration, schemas and routing; their kernels did not run ------------


class _Previous:
    """Stands for torch's CUDA kernel; records that the call came to it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def call_boxed(self, keys: Any, *args: Any, **kwargs: Any) -> str:
        self.calls.append((args, kwargs))
        return "previous"


def test_cuda_registration_and_removal() -> None:
    names = [f"aten::{name}" for name in sdpa._OVERRIDES["CUDA"]]
    if torch.version.cuda is not None:
        pytest.skip("a CUDA build has kernels of its own there; this counts registrations")
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    before = [has(name, "CUDA") for name in names]
    handle = sdpa._activate(("CUDA",))
    assert all(has(name, "CUDA") for name in names)
    handle.remove()
    assert [has(name, "CUDA") for name in names] == before


def test_cuda_dense_result_has_the_schemas_arity_and_layout() -> None:
    previous = _Previous()
    kernel = sdpa._sdpa_cuda(previous, "CUDA")
    q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in qkv(kv_len=40))
    result = kernel(None, q, k, v, 0.0, True, False, scale=0.2)
    schema = torch.ops.aten._scaled_dot_product_flash_attention.default._schema
    assert len(result) == len(schema.returns)
    assert torch.equal(result[0], attention_forward(q, k, v, 0.2, is_causal=True))
    assert result[0].stride() == q.stride()
    assert result[1].shape == (2, 4, 40) and result[4:6] == (40, 40)
    assert previous.calls == []


@pytest.mark.parametrize("case", ["dropout", "debug", "unequal causal", "head_dim"])
def test_cuda_dense_routes_to_torch(case: str) -> None:
    previous = _Previous()
    kernel = sdpa._sdpa_cuda(previous, "CUDA")
    tensors = qkv(head_dim=20 if case == "head_dim" else 32)
    options = {"dropout": (0.1,), "debug": (0.0, False, True), "unequal causal": (0.0, True)}
    assert kernel(None, *tensors, *options.get(case, ())) == "previous"
    assert len(previous.calls) == 1


def test_cuda_packed_routes() -> None:
    previous = _Previous()
    kernel = sdpa._flash_forward(previous, "CUDA")
    q, k, v = torch.randn(45, 4, 32), torch.randn(45, 2, 32), torch.randn(45, 2, 32)
    tail = (40, 40, 0.0, True, False)
    result = kernel(None, q, k, v, OFFSETS_Q, OFFSETS_Q, *tail, window_size_left=3)
    expected, lse, _ = flash_attn.flash_attn_varlen_func(
        q, k, v, OFFSETS_Q, OFFSETS_Q, 40, 40, causal=True, window_size=(3, -1),
        return_attn_probs=True,
    )  # fmt: skip
    assert torch.equal(result[0], expected) and torch.equal(result[1], lse)
    schema = torch.ops.aten._flash_attention_forward.default._schema
    assert len(result) == len(schema.returns)
    for case in (
        {"args": (OFFSETS_Q, OFFSETS_K, *tail)},
        {"args": (OFFSETS_Q, OFFSETS_Q, 40, 40, 0.1, True, False)},
        {"args": (OFFSETS_Q, OFFSETS_Q, *tail), "kwargs": {"alibi_slopes": torch.ones(4)}},
        {"args": (OFFSETS_Q, OFFSETS_Q, *tail), "kwargs": {"seqused_k": OFFSETS_Q[1:]}},
        {"args": (OFFSETS_Q, OFFSETS_Q, *tail), "kwargs": {"something_new": 1}},
    ):
        assert kernel(None, q, k, v, *case["args"], **case.get("kwargs", {})) == "previous"
    assert len(previous.calls) == 5


def test_offsets_that_share_their_memory_are_not_for_that_the_same() -> None:
    """On a GPU other offsets would be read on the host, which the call is not for."""
    offsets = torch.tensor([0, 2, 5, 9], dtype=torch.int32)
    q = torch.randn(9, 2, 16)
    reasons = [
        sdpa._flash_reason("CUDA", (q, q, q, offsets, other, 4, 4, 0.0, False, False), {})
        for other in (offsets, offsets[:3])
    ]
    assert reasons[0] is None and "unequal lengths" in str(reasons[1])
