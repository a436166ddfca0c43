"""The native entry given arrays that are no torch tensors: what DLPack says of them is kept."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from blackwell_sparsek import _C

Q, K, V = (np.random.default_rng(i).random((1, 2, 5, 16), np.float32) for i in range(3))


class Exporter:
    """An array by the Python protocol alone, as a capsule of a DLPack version, numpy's own or another."""

    def __init__(self, array: Any, major: int | None = None) -> None:
        self.array, self.major = array, major

    def __dlpack__(self, **_: object) -> object:
        capsule = self.array.__dlpack__(max_version=(1, 1))
        if self.major is not None:
            pointer = ctypes.pythonapi.PyCapsule_GetPointer
            pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
            ctypes.c_uint32.from_address(pointer(capsule, b"dltensor_versioned")).value = self.major
        return capsule


def attend(q: object, out: object, causal: int = 0, return_lse: object = False) -> Any:
    return _C.attention_forward(q, K, V, None, causal, -1, -1, 0.0, None, None, return_lse, out)


def test_versioned_and_plain_capsules_are_read() -> None:
    plain, versioned = np.zeros_like(Q), np.zeros_like(Q)
    attend(Q, plain)
    attend(Exporter(Q), Exporter(versioned))
    assert np.abs(plain).max() > 0 and np.array_equal(plain, versioned)


def test_a_read_only_array_is_read_but_not_written() -> None:
    q, out = Q.copy(), np.zeros_like(Q)
    q.flags.writeable = False
    attend(Exporter(q), out)
    result = out.copy()
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: must be writable; got a read-only tensor"):
        attend(-q, Exporter(out))
    assert np.array_equal(out, result)


def test_another_version_of_dlpack_is_refused() -> None:
    with pytest.raises(TypeError, match="Q: must export version 1 of DLPack; got version 2"):
        attend(Exporter(Q, major=2), np.zeros_like(Q))


def test_arguments_of_other_kinds_raise_their_own_errors() -> None:
    class Undecided:
        def __bool__(self) -> bool:
            raise RuntimeError("undecided")

    with pytest.raises(RuntimeError, match="undecided"):
        attend(Q, np.zeros_like(Q), return_lse=Undecided())
    with pytest.raises(ValueError, match="causal: must be 0 .*; got 7"):
        attend(Q, np.zeros_like(Q), causal=7)
