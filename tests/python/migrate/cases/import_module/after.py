import blackwell_sparsek
import blackwell_sparsek.utils

RESULT = blackwell_sparsek.attention_forward(Q, K, V)
if not blackwell_sparsek.utils.validate_correctness(RESULT, RESULT)[0]:
    raise SystemExit("wrong")
