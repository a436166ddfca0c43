#!/usr/bin/env bash
# What a dev or prod container does when started without a command: says what is here, then a shell
# where there is a terminal, else it stays up for `docker exec` where asked to (STAY_UP=1).
set -uo pipefail
bsk doctor
status=$?
if ! ls /dev/nvidiactl >/dev/null 2>&1; then
  echo "No GPU in this container: everything runs on the CPU. With one on this host: docker run --gpus all ..., or see docs/containers.md for compose."
fi
if [ -t 0 ]; then
  exec bash
fi
if [ "${STAY_UP:-0}" = 1 ]; then
  echo "Up. Open a shell in it with: docker-compose exec ${COMPOSE_SERVICE:-dev} bash"
  exec sleep infinity
fi
exit "$status"
