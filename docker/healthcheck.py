"""The images' health check: one small attention on what is here, against torch's own."""

import sys

import torch

from blackwell_sparsek import UnsupportedError, attention_forward


def agrees(device: str, dtype: torch.dtype) -> bool:
    generator = torch.Generator(device).manual_seed(0)
    # [batch, heads, length, head_dim]
    q, k, v = (
        torch.randn(1, 2, 64, 64, generator=generator, device=device).to(dtype) for _ in range(3)
    )
    reference = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    return torch.allclose(attention_forward(q, k, v).float(), reference, rtol=1e-3, atol=2e-3)


def main() -> int:
    healthy = agrees("cpu", torch.float32)
    print(f"cpu: {'ok' if healthy else 'wrong result'}")
    if torch.cuda.is_available():
        try:
            gpu_healthy = agrees("cuda", torch.float16)
            print(f"cuda: {'ok' if gpu_healthy else 'wrong result'}")
            healthy = healthy and gpu_healthy
        except UnsupportedError as error:  # an L4, say: the CPU and SDPA still serve
            print(f"cuda: {str(error).splitlines()[0]}")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
