from functools import partial
from flashcore.utils import validate_correctness, benchmark_latency

strict = partial(validate_correctness, rtol=1e-5, atol=1e-5)
RESULT = Q * strict(Q, Q)
ok = validate_correctness(Q, Q)
stats = benchmark_latency(lambda: Q + 1, num_iters=2)
