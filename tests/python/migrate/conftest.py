"""What every migration test needs: an environment that is put back, and inputs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from blackwell_sparsek.core import Config, set_default_config


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Code under test sets environment variables and the default Config: both are put back."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    set_default_config(Config())


@pytest.fixture
def qkv() -> dict[str, Any]:
    """Q, K, V [1, 2, 32, 16] float32, the same in every test."""
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(1, 2, 32, 16, generator=generator) for name in "QKV"}
