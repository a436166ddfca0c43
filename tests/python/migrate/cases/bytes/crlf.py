import torch
from flashcore import build_baseline

kernel = build_baseline()
out = kernel.forward(Q, K, V)
