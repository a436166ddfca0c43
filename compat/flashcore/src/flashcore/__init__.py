"""FlashCore's API, computed by BlackwellSparseK. Deprecated: use `blackwell_sparsek`.

    from flashcore import build_baseline
    output = build_baseline().forward(Q, K, V)

`bsk migrate PATH` rewrites code that uses this package.
"""

from flashcore import _deprecation, utils
from flashcore._baseline import Baseline, FallbackWarning, build_baseline

__all__ = ["Baseline", "FallbackWarning", "build_baseline", "utils"]

_deprecation.warn_once()
