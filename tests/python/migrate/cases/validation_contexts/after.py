from blackwell_sparsek import attention_forward
from blackwell_sparsek.utils import validate_correctness

out = attention_forward(Q, K, V)
ref = out.clone()

ok, metrics = validate_correctness(out, ref, rtol=1e-3, atol=2e-3)  # tolerance
flag: bool = validate_correctness(out, ref)[0]
assert validate_correctness(out, ref)[0], "differs"
if not validate_correctness(
    out,
    ref,
)[0] or False:
    raise SystemExit(1)
results = [validate_correctness(o, r)[0] for o, r in [(out, ref)]]
both = validate_correctness(out, ref)[0] and (validate_correctness(out, ref)[0])
print(f"ok: {validate_correctness(out, ref)[0]} {ok}")
validate_correctness(out, ref)
ok &= validate_correctness(out, ref)[0]
x = y = validate_correctness(out, ref)[0]


def check(o, r):
    return validate_correctness(o, r)[0]


class Case:
    good = validate_correctness(out, ref)[0]

    def set(self):
        self.ok = validate_correctness(out, ref)[0]


assert all(results) and check(out, ref) is True and ok is True and Case.good is True
RESULT = out
