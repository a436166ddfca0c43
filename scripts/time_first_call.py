"""How long the first attention of a process takes on a GPU, by where the machine code comes from.

    python scripts/time_first_call.py [--timeout-s 120]

Each figure is of a process of its own, CUDA initialised before the clock starts: machine code of the package
(with no compiler to be found and an empty cache), compiled on the spot (the package's sources alone, an empty
cache), and from the disk cache that the process before filled. Each result is compared with torch's SDPA. Ends with
1 where machine code came from elsewhere than it should, or a result is wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ORIGINS = ("embedded", "compiled", "disk cache")
# [batch, heads, length, head_dim] and the kernel of each.
CALLS = {
    "sm90_attention_forward_small": (1, 8, 512, 64),
    "sm90_attention_forward": (1, 16, 4096, 128),
}


def first_call(kernel: str, origin: str, folder: Path) -> dict[str, object]:
    """In a process of its own: the first and the second call, and where the machine code was."""
    import torch

    from blackwell_sparsek import _C, _nvrtc, attention_forward
    from blackwell_sparsek.attention import plan
    from blackwell_sparsek.core import Config, set_default_config

    package = Path(_C.__file__).resolve().parent / "kernels"
    if not (package / "source.digest").is_file():
        raise SystemExit(f"{package} does not exist: this build has no GPU kernels.")
    if origin == "embedded":
        _C.set_engine_places(str(package), [], "")
    else:
        sources = folder / "kernels"
        sources.mkdir(exist_ok=True)
        for name in ("source", "source.digest"):
            if not (sources / name).exists():
                (sources / name).symlink_to(package / name)
        _C.set_engine_places(str(sources), _nvrtc.nvrtc_libraries(torch.version.cuda), "")
    cache = folder / ("unused" if origin == "embedded" else "cache")
    set_default_config(Config(kernel=kernel, build_dir=cache))

    Q, K, V = (torch.randn(CALLS[kernel], dtype=torch.float16, device="cuda") for _ in range(3))
    reference = torch.nn.functional.scaled_dot_product_attention(Q, K, V)
    torch.cuda.synchronize()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        output = attention_forward(Q, K, V)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    config = plan(Q, K, V).partition("<")[2].partition(">")[0]
    (request,) = (known for known in _C.documented_kernels() if known[0] == config)
    return {
        "origin": _C.compile_kernel(*request)[0],  # what this process has in memory
        "first_s": seconds[0],
        "second_s": seconds[1],
        "right": torch.allclose(output, reference, rtol=1e-3, atol=2e-3),
        "cached": len(list(cache.glob("*.bskcubin"))) if cache.is_dir() else 0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timeout-s", type=float, default=120.0)
    parser.add_argument("--one", nargs=3, metavar=("KERNEL", "ORIGIN", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.one:
        kernel, origin, folder = arguments.one
        print(json.dumps(first_call(kernel, origin, Path(folder))))
        return 0

    failed = False
    print(f"{'kernel':32} {'machine code':12} {'first call, s':>13} {'second, s':>10}  result")
    for kernel in CALLS:
        with tempfile.TemporaryDirectory() as folder:
            for origin in ORIGINS:
                command = [sys.executable, __file__, "--one", kernel, origin, folder]
                try:
                    run = subprocess.run(
                        command, capture_output=True, text=True, timeout=arguments.timeout_s
                    )
                except subprocess.TimeoutExpired:
                    print(f"{kernel:32} {origin:12} took more than {arguments.timeout_s:g} s")
                    failed = True
                    continue
                if run.returncode != 0:
                    print(f"{kernel:32} {origin:12} failed:\n{run.stderr[-2000:]}")
                    failed = True
                    continue
                got = json.loads(run.stdout.splitlines()[-1])
                problems = [
                    text
                    for text, is_so in (
                        (f"came from: {got['origin']}", got["origin"] != origin),
                        ("WRONG", not got["right"]),
                        ("wrote to the cache", origin == "embedded" and got["cached"] > 0),
                    )
                    if is_so
                ]
                failed = failed or bool(problems)
                print(
                    f"{kernel:32} {origin:12} {got['first_s']:13.4f} {got['second_s']:10.6f}  "
                    + (", ".join(problems) or "as it should")
                )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
