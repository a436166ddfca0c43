"""Fixtures of the Python tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from blackwell_sparsek.core import Config, set_default_config


@pytest.fixture(autouse=True)
def _fresh_config() -> Iterator[None]:
    """Every test starts and leaves with the default configuration."""
    set_default_config(Config())
    yield
    set_default_config(Config())
