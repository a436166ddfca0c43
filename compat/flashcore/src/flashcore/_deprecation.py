"""The one DeprecationWarning of a process."""

import warnings

_warned = False


def warn_once() -> None:
    """Warn at the line that imports `flashcore`, the first time in this process."""
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        "flashcore is deprecated: use blackwell_sparsek.attention_forward(Q, K, V), which needs no "
        "build step. `bsk migrate PATH` rewrites your code.",
        DeprecationWarning,
        stacklevel=3,  # the importer: Python skips its own import machinery
    )
