#!/usr/bin/env bash
# Resolve every exact version again, for Python 3.10 to 3.12 on Linux x86-64. Needs uv on PATH.
#   serve.lock  to serve and ask: no torch
#   dev.lock    everything else
# torch's own GPU packages are left out: torch pins them exactly, and its CPU build, which is taken where pip is
# offered one, needs none of them.
set -euo pipefail
cd "$(dirname "$0")/.."

lock() {
    local output=$1
    shift
    # What is locked stays as it is where it can: to take newer releases, delete the file first.
    [ ! -e "$output" ] || cp "$output" "$output.new"
    uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate "$@" pyproject.toml -o "$output.new"
    python3 - "$output.new" "$output" <<'PY'
import re
import sys

lines = []
for line in open(sys.argv[1], encoding="utf8"):
    requirement, _, marker = line.strip().partition(" ; ")
    if re.match(r"(nvidia-(?!pytriton)|cuda-|triton==)", requirement):
        continue
    version = [part for part in marker.split(" and ") if part.startswith("python_full_version") and "3.13" not in part]
    lines.append(requirement + (f" ; {' and '.join(version)}" if version else ""))
header = "# Written by requirements/lock.sh: change pyproject.toml and run `make lock`, do not edit.\n"
open(sys.argv[2], "w", encoding="utf8").write(header + "\n".join(lines) + "\n")
PY
    rm "$output.new"
}

lock requirements/serve.lock --extra serve
lock requirements/dev.lock --extra dev --constraint requirements/serve.lock
