try:
    from blackwell_sparsek import attention_forward
except ImportError:
    from flashcore import build_baseline
    attention_forward = build_baseline().forward

RESULT = attention_forward(Q, K, V)
