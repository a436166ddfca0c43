from flashcore import utils, build_baseline

RESULT = build_baseline().forward(Q, K, V)
passed = utils.validate_correctness(output=RESULT, reference=RESULT, rtol=1e-3)
assert passed is True
