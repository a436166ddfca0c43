#!/usr/bin/env bash
# Builds the container images: bash scripts/build_containers.sh [prod|bench|dev|ci ...]   (default: all four)
# Settings, by environment: BSK_IMAGE (name without tag), BSK_FRAMEWORK (what base installs), BSK_BASE_IMAGE,
# BSK_USER_ID, BSK_CONTAINER_BUILDER (docker, buildah or podman), BSK_BUILD_OPTIONS (more options for the builder).
source "$(dirname "$0")/common.sh"

image="${BSK_IMAGE:-blackwell-sparsek}"
version="$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)"
stages=("$@")
[ $# -gt 0 ] || stages=(prod bench dev ci)

options=()
[ -z "${BSK_FRAMEWORK:-}" ] || options+=(--build-arg "FRAMEWORK=$BSK_FRAMEWORK")
[ -z "${BSK_BASE_IMAGE:-}" ] || options+=(--build-arg "BASE_IMAGE=$BSK_BASE_IMAGE")
[ -z "${BSK_USER_ID:-}" ] || options+=(--build-arg "USER_ID=$BSK_USER_ID")
# shellcheck disable=SC2206 # words on purpose
options+=(${BSK_BUILD_OPTIONS:-})

pick_builder() {
  if command -v docker >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
    echo docker
  elif command -v buildah >/dev/null 2>&1; then
    echo buildah
  elif command -v podman >/dev/null 2>&1; then
    echo podman
  elif command -v docker >/dev/null 2>&1; then
    die "docker is installed but its daemon does not answer. Start it (sudo systemctl start docker; your user must be in the group docker), or install buildah, which needs no daemon."
  else
    die "no container builder here. Install docker (https://docs.docker.com/engine/install), or buildah (Debian: apt-get install buildah)."
  fi
}

builder="${BSK_CONTAINER_BUILDER:-$(pick_builder)}"
case "$builder" in
  docker) build=(docker build) ;;
  # Docker's format, because OCI's has no health check; cached layers, as docker does.
  buildah | podman) build=("$builder" build --format docker --layers) ;;
  *) die "BSK_CONTAINER_BUILDER must be docker, buildah or podman; got '$builder'." ;;
esac
if [ "$builder" = buildah ] && [ "$(id -u)" = 0 ]; then
  build+=(--isolation chroot) # works inside containers and virtual machines too
fi

for stage in "${stages[@]}"; do
  case "$stage" in
    prod) tags=("$image:latest" "$image:$version") ;;
    bench | dev | ci) tags=("$image:$stage" "$image:$version-$stage") ;;
    *) die "there is no stage '$stage' to build. The stages: prod, bench, dev, ci." ;;
  esac
  say "Building $stage as ${tags[*]} with $builder"
  "${build[@]}" "${options[@]}" --target "$stage" -f docker/Dockerfile \
    --label "org.opencontainers.image.version=$version" \
    --label "org.opencontainers.image.revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
    "${tags[@]/#/--tag=}" . || die "the stage $stage did not build; the builder's message is above."
done

# Compose reads .env: with it, plain `docker-compose up dev` has this machine's GPUs.
if has_gpu && [ ! -e .env ]; then
  echo "COMPOSE_FILE=docker-compose.yml:docker-compose.gpu.yml" >.env
  echo "Wrote .env, which adds the GPUs to docker-compose."
fi

say "Built ${stages[*]}"
if has_gpu; then
  echo "Try: docker run --rm --gpus all -it $image:latest"
else
  echo "Try: docker run --rm -it $image:latest"
fi
