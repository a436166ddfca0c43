from flashcore import build_baseline
from flashcore.utils import validate_correctness

out = build_baseline().forward(Q, K, V)
ref = out.clone()

ok = validate_correctness(out, ref, rtol=1e-3, atol=2e-3)  # tolerance
flag: bool = validate_correctness(out, ref)
assert validate_correctness(out, ref), "differs"
if not validate_correctness(
    out,
    ref,
) or False:
    raise SystemExit(1)
results = [validate_correctness(o, r) for o, r in [(out, ref)]]
both = validate_correctness(out, ref) and (validate_correctness(out, ref))
print(f"ok: {validate_correctness(out, ref)} {ok}")
validate_correctness(out, ref)
ok &= validate_correctness(out, ref)
x = y = validate_correctness(out, ref)


def check(o, r):
    return validate_correctness(o, r)


class Case:
    good = validate_correctness(out, ref)

    def set(self):
        self.ok = validate_correctness(out, ref)


assert all(results) and check(out, ref) is True and ok is True and Case.good is True
RESULT = out
