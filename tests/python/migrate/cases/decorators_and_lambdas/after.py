import functools
import torch
from blackwell_sparsek import attention_forward


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
    return attention_forward(*qkv)


forward = attention_forward
compiled = scaled(3)(attention_forward)
table = {"flash": attention_forward, "twice": lambda *a: 2 * attention_forward(*a)}
RESULT = attention(Q, K, V) + forward(Q, K, V) + compiled(Q, K, V) + table["twice"](Q, K, V)
print(f"{attention_forward(Q, K, V).mean():.2f} {'x' * 2!r}")
