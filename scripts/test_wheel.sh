#!/usr/bin/env bash
# Tries what scripts/build_wheel.sh left in dist/ as a user would get it: bash scripts/test_wheel.sh
# A new environment outside the source tree; the wheel, then the sdist: attention against SDPA, `bsk doctor`, import time.
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

try_it() { # try_it WHAT: the checks, in the environment as it is
  say "Trying the $1"
  cd "$place" # not the source tree, whose python/ must not be what is imported
  "$place/venv/bin/python" -m pip check
  "$place/venv/bin/python" "$root/docker/healthcheck.py"
  "$place/venv/bin/bsk" doctor
  "$place/venv/bin/python" "$root/scripts/import_time.py" --max-s "$max_import_s"
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
try_it "wheel, ${wheel[0]}"

"$place/venv/bin/python" -m pip uninstall -q -y blackwell-sparsek
need_compiler "$place/venv/bin/python"
"$place/venv/bin/python" -m pip install -q "${sdist[0]}" || die "pip could not build ${sdist[0]}; its message is above."
try_it "sdist, ${sdist[0]}"
say "The wheel and the sdist work"
