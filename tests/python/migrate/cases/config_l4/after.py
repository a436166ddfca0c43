import os

os.environ.setdefault("CUDA_ARCH", "89")  # L4
os.environ["BSK_DEBUG"] = "0"

from blackwell_sparsek import attention_forward
RESULT = attention_forward(Q, K, V)
