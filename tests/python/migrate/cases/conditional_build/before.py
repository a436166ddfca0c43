import torch
from flashcore import build_baseline

verbose = False
if verbose:
    kernel = build_baseline(verbose=True)
else:
    kernel = build_baseline()
maybe = build_baseline() if torch.cuda.is_available() else None
for _ in range(2):
    RESULT = kernel.forward(Q, K, V)
