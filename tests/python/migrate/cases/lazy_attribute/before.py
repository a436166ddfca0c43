import flashcore


class Lazy:
    def __init__(self):
        self._k = None
        self.n = 0

    def __call__(self, q, k, v):
        if not self._k:
            self._k = flashcore.build_baseline()
        self.n += 1
        return self._k.forward(q, k, v)


lazy = Lazy()
RESULT = lazy(Q, K, V)
