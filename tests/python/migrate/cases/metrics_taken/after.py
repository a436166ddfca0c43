from blackwell_sparsek.utils import validate_correctness

metrics = {"loss": 1.0}
ok = validate_correctness(Q, Q)[0]
ok_metrics = 3
fine, fine_metrics = validate_correctness(Q, Q)
RESULT = Q * metrics["loss"] * ok * fine
