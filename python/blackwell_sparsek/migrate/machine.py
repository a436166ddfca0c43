"""What the checklist asks of this machine: GPU, installation, and attention that really runs.

Each probe returns (fine, why): True, False, or None where this machine can't tell.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings

import torch

import blackwell_sparsek
from blackwell_sparsek import attention_forward

Probe = tuple[bool | None, str]


def supported_gpu() -> Probe:
    if not torch.cuda.is_available():
        return None, "torch sees no CUDA GPU on this machine"
    major, minor = torch.cuda.get_device_capability()
    name = f"{torch.cuda.get_device_name()} (sm_{major}{minor})"
    if major in (9, 10):
        return True, name
    return False, (
        f"{name}: BlackwellSparseK needs sm_90a or sm_100. Move to an H100 or B200, stay on "
        "FlashCore's API through the compatibility package, or use torch's SDPA"
    )


def installed() -> Probe:
    return True, f"version {blackwell_sparsek.__version__}"


def correct() -> Probe:
    """The guide's tolerance against SDPA, on the guide's shape, on whatever device is here."""
    (q, k, v), device = _inputs()
    try:
        out = attention_forward(q, k, v)
    except RuntimeError as error:
        return False, f"attention_forward on {device}: {error}"
    return _compare(out, q, k, v, f"attention_forward against SDPA on {device}")


def side_by_side() -> Probe:
    """Step 2 of the guide, run now."""
    if importlib.util.find_spec("flashcore") is None:
        return None, "flashcore is not installed here: pip install ./compat/flashcore"
    (q, k, v), device = _inputs()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            flashcore = importlib.import_module("flashcore")
            if hasattr(flashcore, "FallbackWarning"):
                return None, (
                    "the flashcore installed here is the compatibility package, which computes by "
                    "BlackwellSparseK itself; compare where the old FlashCore is installed"
                )
            old = flashcore.build_baseline().forward(q, k, v)
        new = attention_forward(q, k, v)
    except Exception as error:  # whatever an installed FlashCore may raise
        return False, f"on {device}: {error}"
    difference = (old - new).abs().max().item()
    fine = torch.allclose(old, new, rtol=1e-3, atol=2e-3)
    return fine, f"run just now on {device}: max difference {difference:.2g}"


def _inputs() -> tuple[list[torch.Tensor], str]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    shape = (1, 8, 512, 64)
    tensors = [torch.randn(shape, generator=generator).to(device, torch.float16) for _ in range(3)]
    return tensors, f"{device}, {list(shape)} float16"


def _compare(
    out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, what: str
) -> Probe:
    reference = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    difference = (out - reference).abs().max().item()
    fine = torch.allclose(out, reference, rtol=1e-3, atol=2e-3)
    return fine, f"{what}, run just now: max difference {difference:.2g}"
