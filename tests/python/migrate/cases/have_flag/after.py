import torch
try:
    import blackwell_sparsek
    HAVE_FLASHCORE = True
except ImportError as error:
    HAVE_FLASHCORE = False
    print(error)

if HAVE_FLASHCORE:
    RESULT = blackwell_sparsek.attention_forward(Q, K, V)
else:
    RESULT = torch.nn.functional.scaled_dot_product_attention(Q, K, V)
