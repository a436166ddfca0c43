from flashcore import build_baseline

left, count = build_baseline(), 2
one = build_baseline(); two = build_baseline()
a = b = build_baseline()
RESULT = one.forward(Q, K, V) + two.forward(Q, K, V) * count; print(RESULT.shape)
