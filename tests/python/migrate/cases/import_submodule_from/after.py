from blackwell_sparsek import utils, attention_forward

RESULT = attention_forward(Q, K, V)
passed, metrics = utils.validate_correctness(output=RESULT, reference=RESULT, rtol=1e-3)
assert passed is True
