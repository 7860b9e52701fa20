#!/usr/bin/env bash
# Makes .venv with every package of the workspace (editable) at the pinned versions. Does nothing where it is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: Python 3.11 or newer is needed; $python is $("$python" --version). Set PYTHON=/path/to/python3.11." >&2
    exit 1
}

wanted=$(cat constraints.txt pyproject.toml tools/setup.sh VERSION libs/*/pyproject.toml services/*/pyproject.toml | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/python ] && [ "$(cat .venv/.shoal-setup 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

echo "setup: making .venv (about half a minute)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
packages=()
for project in libs/*/pyproject.toml services/*/pyproject.toml; do
    packages+=(-e "./$(dirname "$project")")
done
.venv/bin/uv pip install --quiet --python .venv/bin/python -c constraints.txt --group dev "${packages[@]}"
echo "$wanted" >.venv/.shoal-setup
echo "setup: done"
