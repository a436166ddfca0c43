import blackwell_sparsek


class Lazy:
    def __init__(self):
        self.n = 0

    def __call__(self, q, k, v):
        self.n += 1
        return blackwell_sparsek.attention_forward(q, k, v)


lazy = Lazy()
RESULT = lazy(Q, K, V)
