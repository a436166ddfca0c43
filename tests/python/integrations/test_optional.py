"""Opt-in: nothing imported or patched before it is asked for; errors that name the extra."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blackwell_sparsek import BlockMask, UnsupportedError, backends
from blackwell_sparsek.backends import SparseKAttention, vllm_omni_attention
from blackwell_sparsek.layouts import attention_bshd


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_brings_no_framework() -> None:
    python(
        "import sys, blackwell_sparsek, blackwell_sparsek.backends, blackwell_sparsek.flash_attn\n"
        "from blackwell_sparsek.backends import SparseKAttention, register_sdpa\n"
        "loaded = {'transformers', 'xformers', 'diffusers', 'vllm'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )


@pytest.mark.parametrize(
    ("framework", "use"),
    [
        ("transformers", "backends.register_transformers()"),
        ("xformers", "backends.SparseKFwOp"),
        ("diffusers", "backends.register_diffusers()"),
        ("vllm", "backends.register_vllm_backend()"),
        ("vllm", "backends.SparseKBackend()"),
        ("vllm", "backends.SparseKBackend.get_name()"),
    ],
)
def test_a_missing_framework_names_its_extra(framework: str, use: str) -> None:
    python(
        f"import sys; sys.modules[{framework!r}] = None\n"  # as if it were not installed
        "from blackwell_sparsek import backends\n"
        "try:\n"
        f"    {use}\n"
        "except ImportError as error:\n"
        f"    assert 'pip install blackwell-sparsek[{framework}]' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('no ImportError')"
    )


def test_vllm_backend_says_that_it_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", sys)  # as if it were installed
    for use in (backends.register_vllm_backend, backends.SparseKBackend):
        with pytest.raises(UnsupportedError, match="no kernel for vLLM's paged cache yet"):
            use()


def test_every_name_resolves_or_names_its_extra() -> None:
    assert set(dir(backends)) == set(backends.__all__)
    for name in backends.__all__:
        home = backends._HOME[name]
        if importlib.util.find_spec(home) is None and home == "xformers":
            continue
        assert getattr(backends, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = backends.nothing


def test_module_needs_no_framework() -> None:
    q, k, v = (torch.randn(2, 70, heads, 32) for heads in (4, 2, 2))
    blocks = BlockMask.sliding_window(70, 70, 20, block_size=64)
    mask = torch.rand(70, 70) > 0.2
    module = SparseKAttention(0.2, is_causal=True, softcap=3.0)
    result = module(q, k, v, attn_mask=mask, block_mask=blocks)
    scores = q.transpose(1, 2) @ k.repeat_interleave(2, 2).transpose(1, 2).mT * 0.2
    scores = 3.0 * torch.tanh(scores / 3.0)
    allowed = blocks.to_dense_mask() & mask & torch.ones(70, 70, dtype=torch.bool).tril()
    weights = torch.softmax(scores.masked_fill(~allowed, -torch.inf), -1).nan_to_num(0.0)
    plain = (weights @ v.repeat_interleave(2, 2).transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(result, plain, rtol=1e-5, atol=1e-5)
    assert result.is_contiguous()


def test_the_vllm_service_asks_for_no_backend_that_nothing_registers() -> None:
    compose = (Path(__file__).parents[3] / "docker-compose.yml").read_text()
    service = compose.partition("  vllm-server:\n")[2]
    assert "      - serve\n" in service
    plugins = importlib.metadata.entry_points(group="vllm.general_plugins")
    registered = any(plugin.name == "blackwell_sparsek" for plugin in plugins)
    assert ("--attention-backend" in service) == registered


def test_vllm_omni_callable() -> None:
    q, k, v = (torch.randn(2, length, 4, 32) for length in (70, 90, 90))
    blocks = BlockMask.sliding_window(70, 90, 30, block_size=64)
    params = {"block_mask": blocks, "latent_shape": (1, 2, 3)}
    result = vllm_omni_attention(q, k, v, params, True, 0.2)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(t.transpose(1, 2) for t in (q, k, v)),
        blocks.to_dense_mask() & torch.ones(70, 90, dtype=torch.bool).tril(20),
        scale=0.2,
    ).transpose(1, 2)
    torch.testing.assert_close(result, expected)
    assert vllm_omni_attention.capabilities == frozenset()
    (entry,) = importlib.metadata.entry_points(
        group="vllm_omni.sparse_attn", name="blackwell_sparsek"
    )
    assert entry.load() is vllm_omni_attention
    assert torch.equal(vllm_omni_attention(q, k, v), attention_bshd(q, k, v))
