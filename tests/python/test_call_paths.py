"""What a call of `attention_forward` goes through: no Python code where CPython allows that, and the same to all who look."""

from __future__ import annotations

import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from blackwell_sparsek import _C, attention_forward, prepare, prepared
from blackwell_sparsek.attention import plan
from blackwell_sparsek.core import Config, set_default_config

Q, K, V = (torch.randn(1, 2, 24, 16) for _ in range(3))
NATIVE = sys.version_info >= (3, 12)  # PyFunction_SetVectorcall


def python_calls(call: Callable[[], object]) -> list[str]:
    """The names of the library's Python functions that run in a call."""
    seen: list[str] = []

    def profile(frame: Any, event: str, argument: object) -> None:
        if event == "call" and "blackwell_sparsek" in frame.f_code.co_filename:
            seen.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen


def test_plain_calls_run_no_python_code() -> None:
    call, out = prepare(Q, K, V), torch.empty_like(Q)
    for run, name in (
        (lambda: attention_forward(Q, K, V), "attention_forward"),
        (lambda: attention_forward(Q, K, V, 0.5, is_causal=True, out=out), "attention_forward"),
        (lambda: attention_forward(V=V, K=K, Q=Q, return_lse=True), "attention_forward"),
        (lambda: call(Q, K, V), "__call__"),
        (lambda: call(Q, K, V, out=out), "__call__"),
    ):
        assert python_calls(run) == ([] if NATIVE else [name])


def test_other_calls_run_the_python_code() -> None:
    class Sub(Tensor):
        pass

    for run in (
        lambda: attention_forward(Q.as_subclass(Sub), K, V),
        lambda: attention_forward(Q, K, V, window=[3, 0]),  # type: ignore[arg-type]
        lambda: prepare(Q, K, V)(Q, K.as_subclass(Sub), V),
    ):
        assert "attention_forward" in python_calls(run)
    set_default_config(Config(enable_profiling=True))
    assert "_run" in python_calls(lambda: attention_forward(Q, K, V))


def test_keywords_and_positions_are_equal() -> None:
    expected = attention_forward(Q, K, V, 0.3, is_causal=True)
    keywords: dict[str, Any] = {"Q": Q, "K": K, "V": V, "scale": 0.3, "is_causal": True}
    assert torch.equal(attention_forward(**keywords), expected)
    unshared = {name.encode().decode(): value for name, value in keywords.items()}  # not interned
    assert torch.equal(attention_forward(**unshared), expected)
    assert torch.equal(attention_forward(Q, K, scale=0.3, V=V, is_causal="upper_left"), expected)


@pytest.mark.parametrize("positional", range(6))
@pytest.mark.parametrize("keywords", [{}, {"V": V}, {"Q": Q}, {"scales": 1.0}, {"out": None}])
def test_wrong_arguments_get_pythons_own_errors(
    positional: int, keywords: dict[str, object]
) -> None:
    def same(Q, K, V, scale=None, *, is_causal=False, attn_mask=None, window=None, softcap=None,  # type: ignore[no-untyped-def]
             block_mask=None, return_lse=False, out=None):  # fmt: skip
        return None

    arguments = (Q, K, V, None, None)[:positional]
    try:
        same(*arguments, **keywords)
    except TypeError as error:
        message = str(error).replace(
            "test_wrong_arguments_get_pythons_own_errors.<locals>.same", ""
        )
        with pytest.raises(TypeError) as raised:
            attention_forward(*arguments, **keywords)  # type: ignore[arg-type, misc]
        assert str(raised.value).replace("attention_forward", "") == message
    else:
        attention_forward(*arguments, **keywords)  # type: ignore[arg-type, misc]


def test_wrong_arguments_of_prepared_calls() -> None:
    call = prepare(Q, K, V)
    for arguments, keywords in (((Q, K), {}), ((Q, K, V, Q), {}), ((Q, K, V), {"scale": 1.0})):
        with pytest.raises(TypeError, match="__call__"):
            call(*arguments, **keywords)  # type: ignore[misc]
    assert torch.equal(call(Q, K=K, V=V), call(Q, K, V))


def test_it_stays_a_python_function() -> None:
    parameters = inspect.signature(attention_forward).parameters
    assert list(parameters)[:4] == ["Q", "K", "V", "scale"] and parameters["out"].default is None
    assert inspect.isfunction(attention_forward)
    assert pickle.loads(pickle.dumps(attention_forward)) is attention_forward


@pytest.mark.parametrize("function", [attention_forward, prepare(Q, K, V)])
def test_the_compiler_sees_it(function: Any) -> None:
    """Compiled by itself, the function is a frame that torch.compile has to take, not a call that passes it by."""
    graphs: list[Any] = []

    def backend(graph: Any, _: object) -> Any:
        graphs.append(graph)
        return graph

    expected = function(Q, K, V)
    compiled = torch.compile(function, backend=backend, fullgraph=True)
    for _ in range(2):
        assert torch.equal(compiled(Q, K, V), expected)
    assert len(graphs) == 1 and "blackwell_sparsek" in graphs[0].code
    assert not NATIVE or python_calls(lambda: function(Q, K, V)) == []


def test_answering_again_changes_nothing() -> None:
    callback = torch._C._dynamo.eval_frame.get_eval_frame_callback
    arguments = (attention_forward, prepared.PreparedAttention.__call__, callback)
    assert _C.answer_calls(*arguments) is NATIVE
    with pytest.raises(ValueError, match="^K: "):
        attention_forward(Q, K[:, :, :, :8], V)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("length", [0, 24])
def test_outputs_are_torchs_own_tensors(dtype: torch.dtype, length: int) -> None:
    """Not memory of another library's: a storage that can be resized is one that torch's allocator made."""
    q, k, v = (t.to(dtype) for t in (Q[:, :, :length], K, V))
    for lse_wanted in (False, True):
        result = attention_forward(q, k, v, return_lse=lse_wanted)
        for tensor in result if lse_wanted else (result,):
            assert tensor.untyped_storage().resizable()
            assert tensor.is_contiguous() and tensor._version == 0 and not tensor._is_view()
        assert (result[0] if lse_wanted else result).dtype == dtype
    with torch.inference_mode():
        assert attention_forward(q, k, v).is_inference()


def test_a_plan_takes_no_memory() -> None:
    rows = torch.zeros(1, 1, 1, 16).expand(1, 1, 2**33, 16)  # a result of 512 GiB
    assert "134217728 tasks of 64 query rows" in plan(rows, Q[:, :1], Q[:, :1])
