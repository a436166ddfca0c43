import importlib
from flashcore import build_baseline

kernel = build_baseline()
RESULT = getattr(kernel, "forward")(Q, K, V)
module = importlib.import_module("flashcore.utils")


class Model:
    def __init__(self):
        self.op = build_baseline()

    def run(self, name):
        return getattr(self, name)


op = Model().run("op")
