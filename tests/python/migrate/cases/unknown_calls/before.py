import flashcore
from flashcore import build_baseline, build_fused
from flashcore.build import load_sources
from .flashcore import vendored

kernel = build_baseline(sources=load_sources())
out = kernel.forward(Q, K, V, None, True)
plain = build_baseline()
out = plain.forward(Q, K, V, causal=True)
print(flashcore.__version__)
