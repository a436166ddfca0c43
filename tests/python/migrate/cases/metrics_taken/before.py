from flashcore.utils import validate_correctness

metrics = {"loss": 1.0}
ok = validate_correctness(Q, Q)
ok_metrics = 3
fine = validate_correctness(Q, Q)
RESULT = Q * metrics["loss"] * ok * fine
