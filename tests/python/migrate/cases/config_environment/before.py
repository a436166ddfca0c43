import os
from os import environ

os.environ['CUDA_ARCH'] = '90'   # H100
environ["DEBUG"] = "1"
from flashcore import build_baseline

kernel = build_baseline(verbose=True)
RESULT = kernel.forward(Q, K, V)
