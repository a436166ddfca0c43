#!/usr/bin/env bash
# Runs every linter over the tree: bash scripts/lint.sh [--fix | --no-tidy]
# --fix: formats, and fixes what ruff can, first. --no-tidy: all but clang-tidy, which takes minutes.
source "$(dirname "$0")/common.sh"

case "${1:-}" in
  "" | --fix | --no-tidy) ;;
  *) die "the options are --fix and --no-tidy; got '$1'." ;;
esac
if ! "$venv/bin/clang-tidy" --version >/dev/null 2>&1 || ! "$venv/bin/python" -c 'import torch, pytest' >/dev/null 2>&1; then
  make_venv "[lint,test]"
fi
[ -n "${BSK_VENV:-}" ] || PATH="$PWD/$venv/bin:$PATH"
need_compiler "$venv/bin/python"

mapfile -t cpp < <(find src include bindings tests examples -name '*.cc' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | sort)
mapfile -t shell < <(find scripts docker .ci -name '*.sh' -o -path .ci/run | sort)
mapfile -t host < <(find src bindings -name '*.cc' | sort)
python_folders=(python scripts docker examples tests)
for folder in compat benchmarks; do
  [ ! -d "$folder" ] || python_folders+=("$folder")
done

if [ "${1:-}" = --fix ]; then
  ruff check -q --fix-only "${python_folders[@]}"
  ruff format -q "${python_folders[@]}"
  clang-format -i "${cpp[@]}"
fi

failed=()
check() { # check NAME COMMAND...
  local name="$1"
  shift
  say "$name"
  "$@" || failed+=("$name")
}

tidy() { # clang-tidy over the host code, as this machine's compiler is told to compile it
  cmake -S . -B build/lint -DCMAKE_BUILD_TYPE=Release -DBSK_BUILD_PYTHON=ON -DCMAKE_EXPORT_COMPILE_COMMANDS=ON \
    -DPython_EXECUTABLE="$(command -v python)" >build/lint.log 2>&1 || { cat build/lint.log && return 1; }
  printf '%s\0' "${host[@]}" | xargs -0 -n 1 -P "$(nproc)" clang-tidy --quiet -p build/lint 2>/dev/null
}

mkdir -p build
check "ruff check" ruff check -q "${python_folders[@]}"
check "ruff format" ruff format -q --check "${python_folders[@]}"
check "mypy" mypy --no-error-summary
check "clang-format" clang-format --dry-run -Werror "${cpp[@]}"
[ "${1:-}" = --no-tidy ] || check "clang-tidy" tidy
check "shellcheck" shellcheck "${shell[@]}"
check "workflows" check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
check "compose files" check-jsonschema --builtin-schema vendor.compose-spec docker-compose*.yml
check "hadolint" hadolint docker/Dockerfile
check "one version everywhere" python scripts/check_version.py

[ ${#failed[@]} = 0 ] || die "these found something: $(printf '%s, ' "${failed[@]}" | sed 's/, $//'). bash scripts/lint.sh --fix mends formatting."
say "All linters are content"
