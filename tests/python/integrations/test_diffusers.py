"""diffusers: our backend in its dispatcher, and a small real transformer of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from blackwell_sparsek import BlockMask, UnsupportedError
from blackwell_sparsek.backends import register_diffusers

pytest.importorskip("diffusers", reason="diffusers is not installed")
dispatch = pytest.importorskip("diffusers.models.attention_dispatch")


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_diffusers()
    register_diffusers()  # twice is once


def qkv(kv_heads: int = 4) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = [(2, 70, 4, 32), (2, 90, kv_heads, 32), (2, 90, kv_heads, 32)]
    return [torch.randn(shape, generator=g) for shape in shapes]


def test_the_enum_member_is_one() -> None:
    names = dispatch.AttentionBackendName
    assert names("blackwell_sparsek") is names.__members__["BLACKWELL_SPARSEK"]
    assert names("blackwell_sparsek").value == "blackwell_sparsek"
    assert [n.value for n in names].count("blackwell_sparsek") == 1
    assert "blackwell_sparsek" in [str(n.value) for n in names]
    active, _ = dispatch._AttentionBackendRegistry.get_active_backend()
    assert active.value != "blackwell_sparsek"


@pytest.mark.parametrize("mask", ["none", "causal", "padding", "full", "additive"])
def test_dispatcher_equals_native(mask: str) -> None:
    options: dict[str, Any] = {"scale": 0.3}
    g = torch.Generator().manual_seed(1)
    if mask == "causal":
        options["is_causal"] = True
    elif mask == "padding":
        options["attn_mask"] = torch.rand(2, 90, generator=g) > 0.3
    elif mask == "full":
        options["attn_mask"] = torch.rand(2, 1, 70, 90, generator=g) > 0.3
    elif mask == "additive":
        options["attn_mask"] = torch.randn(70, 90, generator=g)
    tensors = qkv()
    result = dispatch.dispatch_attention_fn(*tensors, **options, backend="blackwell_sparsek")
    expected = dispatch.dispatch_attention_fn(*tensors, **options, backend="native")
    torch.testing.assert_close(result, expected)


def test_block_sparsity_by_attention_kwargs() -> None:
    tensors = qkv()
    blocks = BlockMask.sliding_window(70, 90, 30, block_size=64)
    result = dispatch.dispatch_attention_fn(
        *tensors, attention_kwargs={"block_mask": blocks}, backend="blackwell_sparsek"
    )
    expected = dispatch.dispatch_attention_fn(
        *tensors, attn_mask=blocks.to_dense_mask(70, 90), backend="native"
    )
    torch.testing.assert_close(result, expected)


def test_grouped_heads_and_lse() -> None:
    tensors = qkv(kv_heads=2)
    result = dispatch.dispatch_attention_fn(*tensors, enable_gqa=True, backend="blackwell_sparsek")
    expected = dispatch.dispatch_attention_fn(*tensors, enable_gqa=True, backend="native")
    torch.testing.assert_close(result, expected)
    with pytest.raises(ValueError, match="key: must have the query's 4 heads"):
        dispatch.dispatch_attention_fn(*tensors, backend="blackwell_sparsek")
    _, lse = dispatch.dispatch_attention_fn(
        *tensors, enable_gqa=True, attention_kwargs={"return_lse": True},
        backend="blackwell_sparsek",
    )  # fmt: skip
    assert lse.shape == (2, 70, 4)


def test_refusals() -> None:
    with pytest.raises(UnsupportedError, match="dropout_p: must be 0"):
        dispatch.dispatch_attention_fn(*qkv(), dropout_p=0.1, backend="blackwell_sparsek")
    with pytest.raises(UnsupportedError, match="_parallel_config: must be None"):
        dispatch.dispatch_attention_fn(
            *qkv(), parallel_config=object(), backend="blackwell_sparsek"
        )


def test_a_transformer_of_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    ).eval()  # fmt: skip
    inputs = {
        "hidden_states": torch.randn(1, 16, 4),
        "encoder_hidden_states": torch.randn(1, 8, 32),
        "pooled_projections": torch.randn(1, 32),
        "timestep": torch.tensor([1.0]),
        "img_ids": torch.randn(16, 3),
        "txt_ids": torch.randn(8, 3),
    }
    registry = dispatch._AttentionBackendRegistry
    monkeypatch.setattr(registry, "_active_backend", registry._active_backend)  # restored after
    calls: list[int] = []
    ours = registry._backends[dispatch.AttentionBackendName("blackwell_sparsek")]
    monkeypatch.setitem(
        registry._backends,
        dispatch.AttentionBackendName("blackwell_sparsek"),
        lambda **kwargs: (calls.append(1), ours(**kwargs))[1],
    )
    with torch.no_grad():
        expected = model(**inputs).sample
        assert calls == []
        model.set_attention_backend("blackwell_sparsek")
        result = model(**inputs).sample
    assert len(calls) == 2  # one per layer
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
