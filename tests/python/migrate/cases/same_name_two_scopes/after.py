from blackwell_sparsek import attention_forward


def ours():
    return attention_forward(Q, K, V)


def theirs(kernel):
    # a convolution
    return kernel.forward(Q)


class Identity:
    def __init__(self):
        self.kernel = self

    def forward(self, x):
        return x


RESULT = ours() + theirs(Identity())
