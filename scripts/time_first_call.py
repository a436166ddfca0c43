"""How long the first attention of a process takes on a GPU, by where the machine code comes from.

    python scripts/time_first_call.py [--timeout-s 120]

From the package's machine code (with no compiler to be found and an empty cache), compiled on the spot (from the
package's sources alone, an empty cache), and from the disk cache that the process before filled. Ends with 1 where
machine code came from elsewhere than it should, or a result is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from blackwell_sparsek.bench import first_call

CASES: tuple[dict[str, Any], ...] = (
    {"dtype": "fp16"},
    {"dtype": "fp16", "q_heads": 16, "q_len": 4096, "head_dim": 128},
)


def problems(got: dict[str, Any], origin: str, cache: Path) -> list[str]:
    """What is not as it should be."""
    if "error" in got:
        return [got["error"]]
    found = list(got["warnings"])
    if got["origin"] != origin:
        found.append(f"came from: {got['origin']}")
    if not got["correct"]:
        found.append("WRONG")
    if origin == "embedded" and cache.exists():
        found.append("wrote to the cache")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timeout-s", type=float, default=120.0)
    timeout_s = parser.parse_args().timeout_s
    if not (first_call.PACKAGED / "source.digest").is_file():
        raise SystemExit(
            f"{first_call.PACKAGED} holds no sources: this build has no GPU kernels. Install the wheel."
        )
    failed = False
    print(f"{'machine code':12} {'first call, s':>13} {'second, s':>10}  result, kernel")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            sources = first_call.sources_alone(Path(folder))
            for origin, cache, options in (
                ("embedded", "unused", {"compiler": False}),
                ("compiled", "cache", {"kernels": sources}),
                ("disk cache", "cache", {"kernels": sources}),
            ):
                place = Path(folder, cache)
                child = first_call.start(case, "cuda", place, **options)
                got = first_call.finish(child, timeout_s)
                wrong = problems(got, origin, place)
                failed = failed or bool(wrong)
                took = [
                    format(got.get(key, float("nan")), ".4f") for key in ("seconds", "second_call")
                ]
                said = "; ".join(wrong) or "as it should"
                print(
                    f"{origin:12} {took[0]:>13} {took[1]:>10}  {said}, {got.get('plan', '')[:60]}"
                )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
