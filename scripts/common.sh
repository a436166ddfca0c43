# shellcheck shell=bash
# Sourced by the other scripts: a place to stand, a Python, a virtual environment in .venv.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TORCH_FOR_CPU="torch==2.13.0" # on a machine without a GPU: comes as a CPU build where one is offered

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
die() {
  printf '\nerror: %s\n' "$*" >&2
  exit 1
}

has_gpu() { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python >= 3.10 here. Install one (Debian: apt-get install python3 python3-venv), or name it: PYTHON=/path/to/python3 bash $0"
}

# Installs a Debian package where this user may; otherwise says what is missing.
need_debian_package() { # need_debian_package COMMAND-OR-FILE PACKAGE WHY
  command -v "$1" >/dev/null 2>&1 && return
  [ -e "$1" ] && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "Installing $2 ($3)"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null; } ||
      die "could not install $2, which is needed: $3."
  else
    die "$2 is missing, which is needed: $3. Install it (Debian: sudo apt-get install $2) and run this again."
  fi
}

# A container image has its environment in BSK_VENV, complete: nothing is installed there.
venv="${BSK_VENV:-.venv}"
pip_install() {
  [ -n "${BSK_VENV:-}" ] || "$venv/bin/python" -m pip install -q "$@"
}

# What the tests of the GPU side take, which need no GPU: the compiler, a disassembler, cuda.h (the engine's
# declarations are compared with it), and the headers that the kernels include, as pyproject.toml pins them.
kernel_test_packages() {
  printf '%s\n' "nvidia-cuda-nvrtc>=13" nvidia-cuda-nvdisasm nvidia-cuda-runtime-cu12==12.9.79
  grep -oE '"nvidia-[^"]+"' pyproject.toml | tr -d '"'
}

need_compiler() { # need_compiler PYTHON
  need_debian_package c++ g++ "compiles the C++ core"
  need_debian_package "$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
    python3-dev "has CPython's headers, which the C++ core's entry needs"
}

# .venv with this project in it; arguments: the extras to install, such as "[test]".
make_venv() {
  if [ -n "${BSK_VENV:-}" ]; then
    "$venv/bin/python" -c 'import blackwell_sparsek' ||
      die "BSK_VENV=$BSK_VENV names an environment without blackwell_sparsek. Unset BSK_VENV to have one made in .venv."
    return
  fi
  local python
  python="$(find_python)"
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "Making a virtual environment in .venv with $("$python" --version)"
    "$python" -m venv --clear .venv >/dev/null 2>&1 ||
      die "$python has no working venv module. Install it (Debian: apt-get install python3-venv) and run this again."
  fi
  need_compiler "$python"
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  if ! .venv/bin/python -c 'import torch' >/dev/null 2>&1; then
    say "Installing torch"
    if has_gpu; then
      .venv/bin/python -m pip install -q "torch>=2.10" || die "pip could not install torch; its message is above."
    else
      .venv/bin/python -m pip install -q "$TORCH_FOR_CPU" numpy || die "pip could not install torch; its message is above."
    fi
  fi
  say "Building and installing blackwell-sparsek$1"
  .venv/bin/python -m pip install -q ".$1" || die "pip could not build or install the project; its message is above."
}
