#!/usr/bin/env bash
# Runs the GPU tests, and every kernel under NVIDIA's sanitizers: bash scripts/gpu_test.sh [OPTION...] [PART...]
# Parts (all by default): tests (in several processes, fuzzing included), timed (one process, nothing beside it),
# memcheck, racecheck, synccheck. Options:
#   --jobs N      processes of `tests`; default: three quarters of the processors
#   --seconds N   the most that each part may take; default 150 (the sanitizers run beside each other)
#   --only WORDS  pytest's -k
# The Python is BSK_VENV's or .venv's, or the one on the path if it has the package. Reports go to build/gpu_tests.
source "$(dirname "$0")/common.sh"

parts=()
jobs=$(($(nproc) * 3 / 4))
seconds=150
only=()
while [ $# -gt 0 ]; do
  case "$1" in
    tests | timed | memcheck | racecheck | synccheck) parts+=("$1") ;;
    --jobs) jobs="$2" && shift ;;
    --seconds) seconds="$2" && shift ;;
    --only) only=(-k "$2") && shift ;;
    *) die "'$1' is no part (tests, timed, memcheck, racecheck, synccheck) and no option (--jobs N, --seconds N, --only WORDS)." ;;
  esac
  shift
done
[ "$jobs" -ge 1 ] || jobs=1
[ ${#parts[@]} -gt 0 ] || parts=(tests timed memcheck racecheck synccheck)

if [ -z "${BSK_VENV:-}" ] && [ ! -d .venv ] && python3 -c 'import blackwell_sparsek, pytest' 2>/dev/null; then
  python=python3
else
  make_venv "[test,transformers]"
  python="$venv/bin/python"
fi
out=build/gpu_tests
rm -rf "$out" && mkdir -p "$out"
export HF_HUB_OFFLINE=1

# One process of pytest; after a crash, or a test that took too long, another one goes on with the rest.
run_tests() { # run_tests NAME SECONDS-PER-TEST PYTEST-ARGUMENT...
  local name="$1" limit="$2" end=$((SECONDS + seconds)) status=1 attempt left
  shift 2
  for attempt in 1 2 3 4 5 6; do
    left=$((end - SECONDS))
    [ "$left" -gt 0 ] || break
    status=0
    timeout -k 5 "$left" "$python" -m pytest tests/gpu -p no:cacheprovider --report "$out/$name.jsonl" --test-limit "$limit" \
      "$@" "${only[@]}" >"$out/$name.$attempt.log" 2>&1 || status=$?
    case $status in 0 | 5) return ;; esac # 5: no test (left) in this share
    # Complete but for failed tests: pytest's last line counts them.
    if [ "$status" = 1 ] && tail -n 1 "$out/$name.$attempt.log" | grep -qE '[0-9]+ (passed|failed|error)' &&
      ! grep -q '^!!!!' "$out/$name.$attempt.log"; then
      return
    fi
  done
  touch "$out/$name.unfinished"
}

sanitize() { # sanitize TOOL
  local options=()
  [ "$1" != memcheck ] || options=(--leak-check no)
  timeout -k 5 "$seconds" compute-sanitizer --tool "$1" "${options[@]}" --print-limit 20 \
    "$python" tests/gpu/sanitizer_cases.py $((seconds - 50)) >"$out/$1.sanitizer" 2>&1 || true
}

wanted() { [[ " ${parts[*]} " == *" $1 "* ]]; }

if wanted tests; then
  say "GPU tests in $jobs processes"
  for ((i = 0; i < jobs; i++)); do
    run_tests "tests_$i" 75 -m "gpu and not timed" --shard "$i/$jobs" &
  done
  wait
fi
if wanted timed; then
  say "What is timed, alone"
  run_tests timed 120 -m timed
fi
if wanted memcheck || wanted racecheck || wanted synccheck; then
  say "Every kernel under compute-sanitizer"
  command -v compute-sanitizer >/dev/null || PATH="$PATH:/usr/local/cuda/bin"
  if ! command -v compute-sanitizer >/dev/null; then
    die "compute-sanitizer is missing (it comes with the CUDA toolkit). Install it, or name the parts to run: tests timed."
  fi
  for tool in memcheck racecheck synccheck; do
    if wanted "$tool"; then sanitize "$tool" & fi
  done
  wait
fi
say "Summary ($SECONDS s)"
"$python" tests/gpu/summary.py "$out"
