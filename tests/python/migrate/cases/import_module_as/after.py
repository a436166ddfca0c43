import blackwell_sparsek as fc, os
import blackwell_sparsek.utils as fu   # the helpers

RESULT = fc.attention_forward( Q, K, V )
print(fu.benchmark_latency(fc.attention_forward, Q, K, V, num_iters = 2)['median_us'])
ok = fu.validate_correctness(RESULT, RESULT)[0] and os.path.exists("/")
