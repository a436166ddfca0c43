"""Nothing to do with flashcore: DEBUG is ours, so is build_baseline."""
import os


def build_baseline(verbose=True):
    class Model:
        def forward(self, q, k, v):
            return q
    return Model()


os.environ["DEBUG"] = "0"
kernel = build_baseline()
RESULT = kernel.forward(Q, K, V)
LABELS = {"flashcore": 1}
