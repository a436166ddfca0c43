import flashcore
import flashcore.utils

kernel = flashcore.build_baseline()
RESULT = kernel.forward(Q, K, V)
if not flashcore.utils.validate_correctness(RESULT, RESULT):
    raise SystemExit("wrong")
