import functools
import torch
from flashcore import build_baseline

kernel = build_baseline()


def scaled(factor):
    def wrap(fn):
        @functools.wraps(fn)
        def inner(*args, **kwargs):
            return factor * fn(*args, **kwargs)
        return inner
    return wrap


@scaled(2)
@torch.no_grad()
def attention(*qkv):
    return kernel.forward(*qkv)


forward = kernel.forward
compiled = scaled(3)(kernel.forward)
table = {"flash": kernel.forward, "twice": lambda *a: 2 * kernel.forward(*a)}
RESULT = attention(Q, K, V) + forward(Q, K, V) + compiled(Q, K, V) + table["twice"](Q, K, V)
print(f"{kernel.forward(Q, K, V).mean():.2f} {'x' * 2!r}")
