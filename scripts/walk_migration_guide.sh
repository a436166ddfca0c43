#!/usr/bin/env bash
# Walks docs/migration_from_flashcore.md as a new user does, in a new environment: bash scripts/walk_migration_guide.sh [OPTION...]
# Step 1 installs side by side as the guide has it; every Python block runs, on the GPU where there is one; a project made of
# the guide's "before" blocks is migrated by the tool, checked, and run before and after; the checklist ends it. Options:
#   --wheel FILE      BlackwellSparseK from this wheel, not built from the checkout
#   --find-links DIR  for a machine without a network: packages come from this folder, and from the Python (PYTHON) that the
#                     environment is made from, which has torch
source "$(dirname "$0")/common.sh"

wheel=""
links=""
while [ $# -gt 0 ]; do
  case "$1" in
    --wheel) wheel="$(realpath -e "${2:-}")" || die "--wheel: no file '${2:-}'." ;;
    --find-links) links="$(realpath -e "${2:-}")" || die "--find-links: no folder '${2:-}'." ;;
    *) die "'$1' is no option (--wheel FILE, --find-links DIR)." ;;
  esac
  shift 2
done

root="$PWD"
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT

say "A new environment"
python="$(find_python)"
[ -n "$wheel" ] || need_compiler "$python"
unset PYTHONPATH
if [ -z "$links" ]; then
  "$python" -m venv "$place/venv"
else
  export PIP_NO_INDEX=1 PIP_FIND_LINKS="$links"
  "$python" -m venv --without-pip "$place/venv" # that Python's pip serves
  # Not --system-site-packages, which sees nothing of a Python that is itself a virtual environment's.
  "$python" -c 'import sys; print(*(p for p in sys.path if p.endswith(("site-packages", "dist-packages"))), sep="\n")' \
    >"$(echo "$place"/venv/lib/python*/site-packages)/host.pth"
fi
export PATH="$place/venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1
pip() { python -m pip "$@"; }
if has_gpu || [ -n "$links" ]; then torch="torch>=2.10"; else torch="$TORCH_FOR_CPU"; fi
pip install -q "$torch" numpy || die "pip could not install torch; its message is above."

say "Step 1: side by side"
ln -s "$root" "$place/BlackwellSparseK" # the guide's name of the checkout
ours=(-e BlackwellSparseK/)
[ -z "$wheel" ] || ours=("$wheel")
(cd "$place" && pip install -q -e BlackwellSparseK/compat/flashcore && pip install -q "${ours[@]}") ||
  die "the guide's Step 1 did not install; pip's message is above."
[ -x "$place/venv/bin/bsk" ] || die "Step 1 installed nothing: $python has blackwell-sparsek already. Name another: PYTHON=..."
pip install -q "libcst>=1.5" "nbformat>=5" "pytest>=8"
python -c 'import sys, torch, blackwell_sparsek as bsk
device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
print(f"{bsk.__version__} in {bsk.__path__[0]}, Python {sys.version.split()[0]}, torch {torch.__version__}, on {device}")'

say "Every Python block, steps 2 to 4 among them"
python -m pytest -q "$root/tests/python/test_migration_guide.py" "$root/tests/python/migrate/test_migrate_guide.py"

say "The tool, on a project made of the guide's 'before' blocks"
mkdir "$place/project" && cd "$place/project"
python - "$root" <<'PYTHON'
import sys
from pathlib import Path

import torch

root = Path(sys.argv[1])
sys.path.insert(0, str(root / "tests/python/migrate"))
import guide

device = "cuda" if torch.cuda.is_available() else "cpu"
code = f'''import torch

Q, K, V = (torch.randn(1, 8, 512, 64, dtype=torch.float16, device="{device}") for _ in range(3))
'''
# Not the configuration: the tool leaves an L4's architecture to the hand, as the guide says.
code += "\n".join(old.code for old, _ in guide.pairs() if old.section != "Configuration")
Path("attend.py").write_text(guide.on_this_machine(code, device == "cuda") + "print('correct:', is_correct)\n")
PYTHON
expect() { # expect STATUS COMMAND...
  local status=0
  "${@:2}" || status=$?
  [ "$status" = "$1" ] || die "'${*:2}' ended with $status; the guide says $1."
}
python attend.py | tail -n 1 | grep -x "correct: True" || die "the project does not run, or is wrong, on the compatibility package."
expect 1 bsk migrate --check . >/dev/null
expect 0 bsk migrate .
grep -q flashcore attend.py || die "'bsk migrate' without --write changed a file."
expect 0 bsk migrate --write . >/dev/null
expect 0 bsk migrate --check .
! grep -n flashcore attend.py || die "flashcore is still there, above."
python attend.py | tail -n 1 | grep -x "correct: True" || die "the migrated project does not run, or is wrong."

say "The checklist"
bsk migrate --checklist . | tee checklist.txt
grep -q "\[x\]" checklist.txt || die "no item of the checklist is done."
say "The guide holds"
