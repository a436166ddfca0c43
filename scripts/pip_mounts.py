"""Makes pip's configuration of this machine usable while a container image is built.

    python scripts/pip_mounts.py FILE

Writes FILE, a pip.conf with every setting that pip has here, from files and from the environment,
and prints the builder's options that mount it and each local path that it names, read-only.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse


def settings_of_pip() -> dict[str, str]:
    """What `pip config list` prints, option to value; the environment, printed first, wins."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    settings: dict[str, str] = {}
    for line in listing.splitlines():
        match = re.fullmatch(r"(?::env:|global|install)\.([\w-]+)=('.*'|\".*\")", line)
        if match:
            settings.setdefault(match[1], str(ast.literal_eval(match[2])))
    return settings


def local_paths(settings: dict[str, str]) -> list[Path]:
    """The files and folders of this machine that the settings name."""
    paths = set()
    for word in " ".join(settings.values()).split():
        if word.startswith("file://"):  # an index; its pages link to packages beside it
            path = Path(unquote(urlparse(word).path)).parent
        elif word.startswith("/"):
            path = Path(word)
        else:
            continue
        if path.exists():
            paths.add(path)
    return sorted(paths)


def main() -> int:
    target = Path(sys.argv[1]).resolve()
    settings = settings_of_pip()
    lines = [f"{option} = " + "\n  ".join(value.split()) for option, value in settings.items()]
    target.write_text("\n".join(["[global]", *lines]) + "\n")
    mounts = [f"{target}:/etc/pip.conf:ro"]
    mounts += [f"{path}:{path}:ro" for path in local_paths(settings)]
    print(" ".join(f"--volume {mount}" for mount in mounts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
