"""One OpenMP runtime in the process, torch's; its thread settings hold (docs/releasing.md)."""

import ast
import os
import subprocess
import sys

PRELUDE = """
import os, sys, warnings
def copies():
    with open("/proc/self/maps") as maps:
        return sorted({line.split()[-1] for line in maps if "libgomp" in line})
def threads():
    return len(os.listdir("/proc/self/task"))
"""


def printed(code: str, **environment: str) -> str:
    """What a fresh process prints; its loader has seen no other test's libraries."""

    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout


def test_one_runtime_is_loaded_and_it_is_torchs() -> None:
    code = "import blackwell_sparsek, torch; print(copies(), os.path.dirname(torch.__file__))"
    copies, torch_folder = printed(code).rsplit(" ", 1)
    paths = ast.literal_eval(copies)
    assert len(paths) == 1, paths
    assert paths[0].startswith(torch_folder.strip()), paths


def test_set_num_threads_sizes_the_team() -> None:
    code = """
import torch
from blackwell_sparsek import attention_forward
q = torch.randn(1, 8, 512, 64)
torch.set_num_threads(1)
attention_forward(q, q, q)
one = threads()
torch.set_num_threads(3)
for _ in range(4):
    attention_forward(q, q, q)
print(one, threads())
"""
    one, three = map(int, printed(code, OMP_NUM_THREADS="1").split())
    assert three == one + 2


def test_a_child_of_a_threaded_parent_computes_with_one_thread() -> None:
    code = """
import torch
from blackwell_sparsek import attention_forward
torch.set_num_threads(2)
q = torch.randn(1, 8, 256, 64)
expected = attention_forward(q, q, q)
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # as a DataLoader's worker does
    os._exit(0 if torch.equal(attention_forward(q, q, q), expected) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert printed(code).strip() == "0"
