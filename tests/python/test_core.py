"""Config, the environment, the fall-back, build information: every option has an effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import blackwell_sparsek
from blackwell_sparsek import _C, BlockMask, UnsupportedError, attention_forward
from blackwell_sparsek.attention import plan
from blackwell_sparsek.core import Config, get_build_info, get_default_config, set_default_config
from blackwell_sparsek.fallback import FallbackWarning


def in_process(code: str, **environment: str) -> str:
    """What `code` prints in a fresh process with these variables set."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_defaults() -> None:
    config = get_default_config()
    assert config.fallback == "error" and config.kernel is None and config.cuda_arch is None
    assert config.debug_mode is False and config.enable_profiling is False
    assert str(config.build_dir).endswith("/.cache/blackwell_sparsek")


def test_the_guides_configuration() -> None:
    set_default_config(Config(cuda_arch="90a", debug_mode=False))
    assert get_default_config().cuda_arch == "90a"
    assert get_build_info()["compute_arch"] == "90a"


def test_a_change_while_the_configuration_is_read_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = _C.options_in_force
    other = threading.Thread(target=set_default_config, args=(Config(fallback="sdpa"),))

    def slowly() -> object:
        values = options()
        other.start()
        other.join(0.1)  # has to wait until this is done
        return values

    monkeypatch.setattr(_C, "options_in_force", slowly)
    set_default_config(Config())
    assert get_default_config().fallback == "error"
    other.join()
    monkeypatch.undo()
    assert get_default_config().fallback == "sdpa"


def test_environment_and_explicit_values() -> None:
    code = (
        "from blackwell_sparsek.core import *; import json; c = get_default_config(); "
        "set_default_config(Config(fallback='error')); d = get_default_config(); "
        "print(json.dumps([c.fallback, c.debug_mode, c.cuda_arch, c.build_dir, d.fallback, d.debug_mode]))"
    )
    variables = {
        "BSK_FALLBACK": "sdpa",
        "BSK_DEBUG": "1",
        "BSK_CUDA_ARCH": "100a",
        "BSK_BUILD_DIR": "/tmp/kernels",
    }
    assert json.loads(in_process(code, **variables)) == [
        "sdpa",
        True,
        "100a",
        "/tmp/kernels",
        "error",
        True,
    ]


def test_the_environment_may_be_set_after_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BSK_DEBUG", "1")
    set_default_config(Config())
    assert get_default_config().debug_mode is True


def test_a_bad_variable_is_named_at_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BSK_FALLBACK", "maybe")
    with pytest.raises(ValueError, match=r"^BSK_FALLBACK: .*'error', 'sdpa'; got 'maybe'"):
        set_default_config(Config())
    monkeypatch.delenv("BSK_FALLBACK")


def test_kernel_forces_a_kernel() -> None:
    Q = torch.randn(1, 1, 8, 16)
    assert plan(Q, Q, Q).startswith("cpu_attention_forward")
    set_default_config(Config(kernel="cpu_reference"))
    assert plan(Q, Q, Q).startswith("cpu_reference")
    reference = attention_forward(*[Q.double()] * 3)  # which no other kernel takes
    assert reference.dtype == torch.float64


def test_debug_mode_checks_block_lists() -> None:
    Q = torch.randn(1, 1, 128, 16)
    mask = BlockMask.from_dense(torch.ones(1, 1, 2, 2, dtype=torch.bool), 64, q_len=128, kv_len=128)
    expected = attention_forward(Q, Q, Q)
    set_default_config(Config(debug_mode=True))
    torch.testing.assert_close(attention_forward(Q, Q, Q, block_mask=mask), expected)
    for bad, rule in (([0, 9], "indices from 0 to 1"), ([1, 0], "ascend"), ([0, 0], "ascend")):
        mask.full_indices[0, 0, 0] = torch.tensor(bad, dtype=torch.int32)
        with pytest.raises(ValueError, match=rf"^block_mask.full_indices: .*{rule}"):
            attention_forward(Q, Q, Q, block_mask=mask)
    mask.full_indices[0, 0, 0] = torch.tensor([0, 9], dtype=torch.int32)
    set_default_config(Config())
    out = attention_forward(Q, Q, Q, block_mask=mask)  # skipped, and nothing outside is read
    torch.testing.assert_close(out[:, :, :64], attention_forward(Q[:, :, :64], *[Q[:, :, :64]] * 2))


def test_profiling_names_each_call() -> None:
    Q = torch.randn(1, 1, 8, 16)
    names = []
    for enabled in (False, True):
        set_default_config(Config(enable_profiling=enabled))
        with torch.profiler.profile() as profile:
            attention_forward(Q, Q, Q)
        names.append([event.name for event in profile.events()])
    assert "blackwell_sparsek::attention_forward" not in names[0]
    assert "blackwell_sparsek::attention_forward" in names[1]


def unsupported() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tensors that no kernel takes: they require grad."""
    Q, K, V = (torch.randn(2, 4, 20, 32) for _ in range(3))
    return Q.requires_grad_(), K[:, :2], V[:, :2]


def test_fallback_error_raises_and_sdpa_computes() -> None:
    Q, K, V = unsupported()
    with pytest.raises(UnsupportedError, match="fallback='sdpa'"):
        attention_forward(Q, K, V)
    set_default_config(Config(fallback="sdpa"))
    with pytest.warns(FallbackWarning, match="requires_grad") as caught:
        out = attention_forward(Q, K, V)
    assert caught[0].filename == __file__
    out.sum().backward()
    assert Q.grad is not None and Q.grad.abs().sum() > 0
    torch.testing.assert_close(out, scaled_dot_product_attention(Q, K, V, enable_gqa=True))


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("is_causal", [False, "upper_left", "lower_right"])
@pytest.mark.parametrize("window", [None, (3, 2)])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_the_fallback_means_the_same(
    softcap: float | None, is_causal: bool | str, window: tuple[int, int] | None, mask: str | None
) -> None:
    generator = torch.Generator().manual_seed(1)
    Q, K, V = (torch.randn(2, 4, n, 32, generator=generator) for n in (70, 90, 90))
    K, V = K[:, :2], V[:, :2]
    noise = torch.randn(2, 1, 70, 90, generator=generator)
    options = {
        "softcap": softcap,
        "is_causal": is_causal,
        "window": window,
        "return_lse": softcap is not None,
    }
    if mask is not None:
        options["attn_mask"] = (
            noise > 0.5 if mask == "bool" else noise.masked_fill(noise < -1, -torch.inf)
        )
    options["block_mask"] = BlockMask.from_dense(
        torch.rand(1, 2, 2, 2, generator=generator) < 0.7, 64, q_len=70, kv_len=90
    )
    native = attention_forward(Q, K, V, **options)  # type: ignore[arg-type]
    set_default_config(Config(fallback="sdpa"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        fallen_back = attention_forward(Q.requires_grad_(), K, V, **options)  # type: ignore[arg-type]
    # torch's own operations were off by 8e-5 in the first such call of some processes, and never
    # again (torch 2.13, two threads on a busy machine); a rule that is lost makes 1e-2.
    torch.testing.assert_close(fallen_back, native, rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("shape", [(), (90,), (70, 90)])
def test_the_fallback_takes_additive_masks_of_any_dtype_and_rank(shape: tuple[int, ...]) -> None:
    Q, K, V = (torch.randn(1, 2, n, 32, dtype=torch.float16) for n in (70, 90, 90))
    mask = torch.randn(shape)
    if mask.dim() == 2:  # what fp16 has no number for, in a part of a row and in a whole one
        mask[3, 40:] = mask[5] = torch.finfo(torch.float32).min
        mask[7] += 70000.0
    native = attention_forward(Q, K, V, attn_mask=mask)
    set_default_config(Config(fallback="sdpa"))
    with pytest.warns(FallbackWarning):
        fallen_back = attention_forward(Q.requires_grad_(), K, V, attn_mask=mask)
    torch.testing.assert_close(fallen_back, native, rtol=1e-3, atol=5e-3)
    (gradient,) = torch.autograd.grad(fallen_back.sum(), Q)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_the_fallback_holds_the_rules(requires_grad: bool) -> None:
    set_default_config(Config(fallback="sdpa", kernel="sm90_attention_forward"))
    Q, K, V = (torch.randn(2, 4, 20, 32) for _ in range(3))
    Q.requires_grad_(requires_grad)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("K: must have Q's batch size", {"K": K[:1], "V": V[:1]}),
        ("K: must have a number of heads", {"Q": Q[:, :1]}),
        ("softcap: must be", {"softcap": float("nan")}),
        ("out: must have shape", {"out": torch.empty(2, 4, 21, 32)}),
        ("out: must lie apart from K", {"out": K}),
        ("attn_mask: must be broadcastable", {"attn_mask": torch.zeros(2, 4, 20, 20)[:, :3]}),
    ]
    for message, arguments in wrong:
        with pytest.raises(ValueError, match=message):
            attention_forward(**{"Q": Q, "K": K, "V": V, **arguments})


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_the_fallback_returns_what_a_kernel_returns(softcap: float | None) -> None:
    Q, K, V = (torch.randn(2, 20, 4, 32).transpose(1, 2) for _ in range(3))
    for dtype in (torch.float32, torch.bfloat16):
        set_default_config(Config())
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            native, lse = attention_forward(Q, K, V, softcap=softcap, return_lse=True)
            set_default_config(Config(fallback="sdpa", kernel="sm90_attention_forward"))
            with pytest.warns(FallbackWarning) as caught:
                fallen_back, its_lse = attention_forward(Q, K, V, softcap=softcap, return_lse=True)
                assert attention_forward(Q, K, V, softcap=softcap).stride() == native.stride()
        assert fallen_back.dtype == dtype and fallen_back.stride() == native.stride()
        assert {warning.filename for warning in caught} == {__file__}
        torch.testing.assert_close(its_lse, lse, rtol=1e-5, atol=1e-5)


def test_build_info() -> None:
    info = get_build_info()
    assert info["version"] == blackwell_sparsek.__version__
    assert info["torch"] == torch.__version__
    assert info["kernels"][0] != "cpu_reference" and "cpu_attention_forward" in info["kernels"]
    assert info["cpu_threads"] == torch.get_num_threads()
    set_default_config(Config(build_dir="/tmp/elsewhere"))
    assert get_build_info()["cache_dir"] == "/tmp/elsewhere"


def test_the_import_is_quick_and_patches_nothing() -> None:
    code = """
import time, torch, sys
import rich, typer
before = torch.nn.functional.scaled_dot_product_attention
modules = set(sys.modules)
start = time.perf_counter(); import blackwell_sparsek; seconds = time.perf_counter() - start
assert torch.nn.functional.scaled_dot_product_attention is before
assert not {"transformers", "xformers", "diffusers", "vllm", "libcst", "matplotlib"} & set(sys.modules)
print(seconds)
"""
    assert min(float(in_process(code)) for _ in range(3)) < 0.3


def test_threads_are_torchs() -> None:
    code = """
import torch, blackwell_sparsek
from blackwell_sparsek.attention import plan
Q = torch.randn(4, 4, 300, 64)
print(plan(Q, Q, Q).split(", ")[-1])
"""
    assert in_process(code, OMP_NUM_THREADS="1") == "1 threads"


def test_a_forked_child_can_call() -> None:
    code = """
import os, torch, blackwell_sparsek as bsk
Q = torch.randn(1, 2, 100, 32)
torch.set_num_threads(1)
expected = bsk.attention_forward(Q, Q, Q)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(bsk.attention_forward(Q, Q, Q), expected) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert in_process(code) == "0"
