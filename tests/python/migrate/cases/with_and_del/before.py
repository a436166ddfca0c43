from flashcore import build_baseline
import contextlib

kernel = build_baseline()
with contextlib.suppress(ValueError):
    RESULT = kernel.forward(Q, K, V)
gone = build_baseline()
out = gone.forward(Q, K, V)
del gone
