import torch
from blackwell_sparsek import attention_forward
from flashcore import build_baseline

verbose = False
if verbose:
    pass
else:
    pass
maybe = build_baseline() if torch.cuda.is_available() else None
for _ in range(2):
    RESULT = attention_forward(Q, K, V)
