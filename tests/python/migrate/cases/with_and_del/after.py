from blackwell_sparsek import attention_forward
from flashcore import build_baseline
import contextlib

with contextlib.suppress(ValueError):
    RESULT = attention_forward(Q, K, V)
gone = build_baseline()
out = gone.forward(Q, K, V)
del gone
