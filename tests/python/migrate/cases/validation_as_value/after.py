from functools import partial
from blackwell_sparsek.utils import benchmark_latency
from flashcore.utils import validate_correctness

strict = partial(validate_correctness, rtol=1e-5, atol=1e-5)
RESULT = Q * strict(Q, Q)
ok = validate_correctness(Q, Q)
stats = benchmark_latency(lambda: Q + 1, num_iters=2)
