"""How long the first call of a process takes, and where its machine code came from.

Every call is that of a process of its own. Torch is up and the inputs are there before the clock starts: what
is left is finding or compiling the kernel, loading and launching it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from blackwell_sparsek import _C
from blackwell_sparsek._nvrtc import nvrtc_libraries
from blackwell_sparsek.attention import attention_forward, plan
from blackwell_sparsek.bench.cases import Case
from blackwell_sparsek.bench.checking import Check

PACKAGED = Path(_C.__file__).resolve().parent / "kernels"

CASES: dict[str, dict[str, Any]] = {
    "documented": {"dtype": "fp16"},
    "another": {"dtype": "fp16", "head_dim": 40, "v_head_dim": 24, "softcap": 30.0},
}


def measure(device: str, timeout_s: float = 90.0) -> dict[str, dict[str, Any]]:
    """What `finish` returns for each of `CASES`, from an empty kernel cache."""
    found = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as cache:
            found[name] = finish(start(case, device, Path(cache)), timeout_s)
    return found


def start(
    case: Mapping[str, Any],
    device: str,
    cache: Path,
    *,
    kernels: Path | None = None,
    compiler: bool = True,
) -> subprocess.Popen[str]:
    """Starts the process.

    Args:
        case: the fields of a `Case`.
        cache: folder of the kernel cache.
        kernels: folder with sources and machine code; default: the package's.
        compiler: False = NVRTC is not to be found.
    """
    asked = [dict(case), device, None if kernels is None else str(kernels), compiler]
    return subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps(asked)],
        env={**os.environ, "BSK_BUILD_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child: subprocess.Popen[str], timeout_s: float = 90.0) -> dict[str, Any]:
    """`seconds` of the first call, `second_call`, `correct`, `plan`, `warnings`, and `origin` of a documented
    kernel's machine code ("embedded", "compiled", "disk cache"), else None; or `error` alone."""
    try:
        out, err = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return {"error": f"no end within {timeout_s:g} s"}
    lines = (out if child.returncode == 0 else err).strip().splitlines()
    last = lines[-1] if lines else f"exit status {child.returncode}"
    found: dict[str, Any] = json.loads(last) if child.returncode == 0 else {"error": last}
    return found


def sources_alone(folder: Path) -> Path:
    """A folder of kernels inside `folder` without machine code: the package's sources."""
    kernels = folder / "kernels"
    kernels.mkdir()
    for name in ("source", "source.digest"):
        (kernels / name).symlink_to(PACKAGED / name)
    return kernels


def _first_call(
    fields: dict[str, Any], device: str, kernels: str | None, compiler: bool
) -> dict[str, Any]:
    """In the process of its own."""
    if kernels is not None or not compiler:
        libraries = nvrtc_libraries(torch.version.cuda) if compiler else []
        _C.set_engine_places(kernels or str(PACKAGED), libraries, "")
    case = Case(**fields)
    inputs = case.make(device)
    Q, K, V, options = inputs

    def wait() -> None:
        if Q.is_cuda:
            torch.cuda.synchronize(Q.device)

    wait()
    seconds = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            began = time.perf_counter()
            output = attention_forward(Q, K, V, **options)
            wait()
            seconds.append(time.perf_counter() - began)
    text = plan(Q, K, V, **options)
    name = text.partition("<")[2].partition(">")[0]
    requests = [kernel for kernel in _C.documented_kernels() if kernel[0] == name]
    return {
        "seconds": seconds[0],
        "second_call": seconds[1],
        "correct": Check(case, inputs)(output)[0],
        "plan": text,
        "origin": _C.compile_kernel(*requests[0])[0] if requests else None,  # as loaded here
        "warnings": [str(each.message) for each in caught],
    }


if __name__ == "__main__":
    print(json.dumps(_first_call(*json.loads(sys.argv[1]))))
