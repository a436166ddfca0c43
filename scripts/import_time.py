"""Seconds that `import blackwell_sparsek` takes beyond `import torch`, in fresh processes.

python scripts/import_time.py --max-s 0.3
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

MEASURE = """
import torch, time
start = time.perf_counter()
import blackwell_sparsek
print(time.perf_counter() - start)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-s", type=float, default=0.3)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    seconds = [
        float(subprocess.check_output([sys.executable, "-c", MEASURE], text=True))
        for _ in range(arguments.repeats)
    ]
    median_s = statistics.median(seconds)
    print(
        f"import blackwell_sparsek: {median_s:.3f} s beyond torch "
        f"(median of {len(seconds)}, at most {arguments.max_s:g})"
    )
    return 0 if median_s <= arguments.max_s else 1


if __name__ == "__main__":
    sys.exit(main())
