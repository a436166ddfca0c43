from flashcore import build_baseline


def run(kernel, q, k, v):
    return kernel.forward(q, k, v)


def build():
    return build_baseline()


fine = build_baseline()
passed = build_baseline(verbose=False)
RESULT = run(passed, Q, K, V) + fine.forward(Q, K, V) + build().forward(Q, K, V)
KERNELS = [build_baseline(), build_baseline()]
