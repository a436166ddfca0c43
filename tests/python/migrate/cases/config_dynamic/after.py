import os
import sys

from blackwell_sparsek import attention_forward

os.environ["CUDA_ARCH"] = sys.argv[1] if len(sys.argv) > 9 else "90a"
os.environ["DEBUG"] = "0"
if os.environ.get("DEBUG") == "1":
    print("debugging")
LEVELS = {"DEBUG": 10}
RESULT = attention_forward(Q, K, V)
