import torch
from flashcore import build_baseline

kernel = build_baseline()
first = kernel.forward(Q, K, V)
kernel = torch.nn.Identity()
second = kernel.forward(Q)


def scoped(kernel=build_baseline()):
    return kernel.forward(Q, K, V)


RESULT = first + second + scoped()
