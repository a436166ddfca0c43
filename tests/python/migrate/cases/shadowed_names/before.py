from flashcore import build_baseline
from flashcore.utils import validate_correctness

kernel = build_baseline()


def outer(kernel):
    # another kernel: the parameter hides the module's
    return kernel.forward(Q)


def rebound():
    build_baseline = lambda: None  # noqa: E731
    return build_baseline()


class Local:
    def forward(self, x):
        return x


def check(validate_correctness):
    if validate_correctness(1, 2):
        return 1
    return 0


RESULT = kernel.forward(Q, K, V) + outer(Local()) + check(lambda a, b: True)
assert rebound() is None
assert validate_correctness(Q, Q) is True
