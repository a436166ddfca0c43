import os
from os import environ

os.environ['BSK_CUDA_ARCH'] = '90a'   # H100
environ["BSK_DEBUG"] = "1"
from blackwell_sparsek import attention_forward

RESULT = attention_forward(Q, K, V)
