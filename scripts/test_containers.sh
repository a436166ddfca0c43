#!/usr/bin/env bash
# Runs every RUN and COPY of docker/Dockerfile without a container daemon and without a registry, then tries the images:
#   sudo bash scripts/test_containers.sh [prod|bench|dev|ci ...]     (Debian, root; about 10 minutes the first time)
# The base image is made here by mmdebstrap from this machine's Debian mirrors: bookworm with its python3 and headers,
# which stands in for python:3.12-slim-bookworm. pip uses this machine's configuration, mounted while building, kept in no image.
source "$(dirname "$0")/common.sh"

[ "$(id -u)" = 0 ] || die "making a base image needs root. Run: sudo bash $0"
need_debian_package buildah buildah "builds images without a daemon"
need_debian_package mmdebstrap mmdebstrap "makes the base image"

stages=("$@")
[ $# -gt 0 ] || stages=(prod bench dev ci)
place="${BSK_CONTAINER_TEST_DIR:-$PWD/.cache/containers}"
mkdir -p "$place"
export BSK_IMAGE=localhost/blackwell-sparsek BSK_BASE_IMAGE=localhost/bookworm-python:test
export BSK_FRAMEWORK="${BSK_FRAMEWORK:-$TORCH_FOR_CPU}" BSK_CONTAINER_BUILDER=buildah

# A storage of its own, so that nothing of this machine's is touched; overlay where the kernel lets us.
storage() { printf '[storage]\ndriver = "%s"\ngraphroot = "%s"\nrunroot = "%s"\n' "$1" "$place/$1" "$place/run-$1" >"$place/storage.conf"; }
export CONTAINERS_STORAGE_CONF="$place/storage.conf"
storage overlay
buildah images >/dev/null 2>&1 || storage vfs
grep driver "$CONTAINERS_STORAGE_CONF"

if ! buildah inspect --type image "$BSK_BASE_IMAGE" >/dev/null 2>&1; then
  say "Making the base image from this machine's Debian mirrors"
  sources=/etc/apt/sources.list.d/debian.sources
  [ -e "$sources" ] || sources=/etc/apt/sources.list
  mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-dev,python3-venv bookworm "$place/base.tar" "$sources" ||
    die "mmdebstrap could not make a Debian; its message is above."
  container="$(buildah from scratch)"
  buildah add -q "$container" "$place/base.tar" / >/dev/null
  buildah commit -q --rm "$container" "$BSK_BASE_IMAGE" >/dev/null
  rm "$place/base.tar"
fi

# pip's configuration of this machine as one file, and every folder and certificate that it names.
mounts="$("$(find_python)" scripts/pip_mounts.py "$place/pip.conf")" || die "could not read pip's configuration."
export BSK_BUILD_OPTIONS="--pull-never $mounts"
bash scripts/build_containers.sh "${stages[@]}"

inside() { # inside IMAGE COMMAND...: as the image's user, in its folder, with its environment
  local image="$1" container status=0
  shift
  container="$(buildah from --pull-never "$image")"
  buildah run --isolation chroot "$container" -- "$@" || status=$?
  buildah rm "$container" >/dev/null
  return "$status"
}

for stage in "${stages[@]}"; do
  image="$BSK_IMAGE:$stage"
  [ "$stage" != prod ] || image="$BSK_IMAGE:latest"
  say "Trying $image"
  user="$(buildah inspect --type image --format '{{.OCIv1.Config.User}}' "$image")"
  [[ "$user" =~ ^[1-9][0-9]*$ ]] || die "$image must have a numeric user that is not root; it has '$user'."
  health="$(buildah inspect --type image --format '{{.Docker.Config.Healthcheck}}' "$image")"
  [[ "$health" == *healthcheck.py* ]] || die "$image must have a health check; it has '$health'."
  inside "$image" python docker/healthcheck.py
  inside "$image" bsk doctor
  case "$stage" in
    prod)
      ! inside "$image" bash -c 'command -v c++' || die "$image holds a compiler, which prod has no use for."
      inside "$image" bash docker/start.sh </dev/null
      inside "$image" bash scripts/quick_start.sh 0
      ;;
    bench) inside "$image" bsk bench --help >/dev/null ;;
    dev) inside "$image" bash -c 'python -c "import blackwell_sparsek as b; assert b.__file__.startswith(\"/workspace/\"), b.__file__" && c++ --version | head -n 1 && ruff --version' ;;
    ci)
      inside "$image" python -c 'import blackwell_sparsek as b; assert b.__file__.startswith("/opt/venv/"), b.__file__'
      # All of the tests take as long as outside; BSK_CONTAINER_FULL_TEST=1 runs the image's own command instead.
      if [ "${BSK_CONTAINER_FULL_TEST:-0}" = 1 ]; then
        inside "$image" bash -c "bash scripts/test.sh && bash scripts/lint.sh"
      else
        inside "$image" python -m pytest tests/structure
      fi
      ;;
  esac
done
say "Every stage builds and works: ${stages[*]}"
buildah images | grep blackwell-sparsek
