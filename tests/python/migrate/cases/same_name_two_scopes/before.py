from flashcore import build_baseline


def ours():
    kernel = build_baseline()
    return kernel.forward(Q, K, V)


def theirs(kernel):
    # a convolution
    return kernel.forward(Q)


class Identity:
    def __init__(self):
        self.kernel = self

    def forward(self, x):
        return x


RESULT = ours() + theirs(Identity())
