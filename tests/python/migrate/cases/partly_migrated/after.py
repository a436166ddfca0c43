from blackwell_sparsek import attention_forward

new = attention_forward(Q, K, V)
RESULT = new + attention_forward(K, Q, V)
