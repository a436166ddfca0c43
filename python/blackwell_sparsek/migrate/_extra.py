"""The packages of the `migrate` extra, or a sentence that names it."""

import importlib.util


def require(*modules: str) -> None:
    """Raise ImportError, naming the extra, if one of the modules isn't installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"migrating code needs {' and '.join(missing)}: "
            "pip install 'blackwell-sparsek[migrate]'"
        )
