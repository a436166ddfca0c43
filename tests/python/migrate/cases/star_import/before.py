from flashcore import *
from flashcore.utils import *

kernel = build_baseline()
RESULT = kernel.forward(Q, K, V)
