"""How long the first call of a process takes: a documented configuration, and one that is compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

# Torch is up, the inputs are there: what is left is finding or compiling the kernel, loading and
# launching it.
_CHILD = """
import json, sys, time
import torch
from blackwell_sparsek.attention import attention_forward, plan
from blackwell_sparsek.bench.cases import Case
device = sys.argv[1]
Q, K, V, options = Case(**json.loads(sys.argv[2])).make(device)
wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
wait()
seconds = []
for _ in range(2):
    start = time.perf_counter()
    attention_forward(Q, K, V, **options)
    wait()
    seconds.append(time.perf_counter() - start)
print(json.dumps({"seconds": seconds[0], "second_call": seconds[1], "plan": plan(Q, K, V, **options)}))
"""

CASES: dict[str, dict[str, Any]] = {
    "documented": {"dtype": "fp16"},
    "another": {"dtype": "fp16", "head_dim": 40, "v_head_dim": 24, "softcap": 30.0},
}


def measure(device: str, timeout: float = 90.0) -> dict[str, dict[str, Any]]:
    """For each of `CASES`, by a new process with an empty kernel cache: `seconds` of the first call,
    `second_call`, `plan`; or `error`."""
    found = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as empty:
            environment = {**os.environ, "BSK_BUILD_DIR": empty}
            command = [sys.executable, "-c", _CHILD, device, json.dumps(case)]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=timeout, env=environment
                )
                lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
                last = lines[-1] if lines else f"exit status {done.returncode}"
                found[name] = json.loads(last) if done.returncode == 0 else {"error": last}
            except subprocess.TimeoutExpired:
                found[name] = {"error": f"no end within {timeout:g} s"}
    return found
