#!/usr/bin/env bash
# Tries what scripts/build_wheel.sh left in dist/ as a user would get it: bash scripts/test_wheel.sh
# A new environment outside the source tree; the wheel, then the sdist: attention against SDPA, `bsk doctor`, import
# time, and the GPU kernels: found as machine code in the wheel, and compiled from the sources that each carries.
source "$(dirname "$0")/common.sh"

shopt -s nullglob
wheel=(dist/blackwell_sparsek-*.whl)
sdist=(dist/blackwell_sparsek-*.tar.gz)
[ ${#wheel[@]} = 1 ] && [ ${#sdist[@]} = 1 ] ||
  die "dist/ must hold one wheel and one sdist; it holds ${#wheel[@]} and ${#sdist[@]}. Run: bash scripts/build_wheel.sh"

root="$PWD"
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
max_import_s=0.3

try_it() { # try_it WHAT ORIGIN...: the checks, in the environment as it is; ORIGIN: of the kernels' machine code
  say "Trying the $1"
  cd "$place" # not the source tree, whose python/ must not be what is imported
  "$place/venv/bin/python" -m pip check
  "$place/venv/bin/python" "$root/docker/healthcheck.py"
  "$place/venv/bin/bsk" doctor
  "$place/venv/bin/python" "$root/scripts/import_time.py" --max-s "$max_import_s"
  local origin
  for origin in "${@:2}"; do
    "$place/venv/bin/python" "$root/scripts/check_installed_kernels.py" "$origin"
  done
  cd "$root"
}

say "Making a new environment"
"$(find_python)" -m venv "$place/venv"
if has_gpu; then
  "$place/venv/bin/python" -m pip install -q "torch>=2.10" numpy
else
  "$place/venv/bin/python" -m pip install -q "$TORCH_FOR_CPU" numpy
fi || die "pip could not install torch; its message is above."

"$place/venv/bin/python" -m pip install -q "${wheel[0]}" || die "pip could not install ${wheel[0]}; its message is above."
try_it "wheel, ${wheel[0]}" embedded
"$place/venv/bin/python" -m pip install -q --no-deps nvidia-cuda-nvrtc || die "pip could not install NVRTC; its message is above."
try_it "wheel, with NVRTC" embedded compiled

"$place/venv/bin/python" -m pip uninstall -q -y blackwell-sparsek
need_compiler "$place/venv/bin/python"
"$place/venv/bin/python" -m pip install -q "${sdist[0]}" || die "pip could not build ${sdist[0]}; its message is above."
try_it "sdist, ${sdist[0]}" compiled
say "The wheel and the sdist work"
