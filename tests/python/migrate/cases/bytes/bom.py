from flashcore import build_baseline
out = build_baseline().forward(Q, K, V)  # µs
