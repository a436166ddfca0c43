from flashcore import build_baseline

_kernel = None
_calls = 0


def attention(q, k, v):
    global _kernel, _calls
    _calls += 1
    if _kernel is None:
        # the first call builds
        _kernel = build_baseline(verbose=True)
    return _kernel.forward(q, k, v)


RESULT = attention(Q, K, V) + attention(Q, K, V)
