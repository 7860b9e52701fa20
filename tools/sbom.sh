#!/usr/bin/env bash
# Writes what the images' Python environment is made of, as CycloneDX JSON: all services, at the pinned versions.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-build/sbom.cdx.json}
uv=$PWD/.venv/bin/uv
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"$uv" venv --quiet --python .venv/bin/python "$folder/venv"
"$uv" pip install --quiet --python "$folder/venv/bin/python" -c constraints.txt \
    ./libs/contracts ./libs/model ./libs/bus ./libs/kube ./libs/service ./libs/core ./libs/grouping services/*/
mkdir -p "$(dirname "$out")"
"$uv" tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py environment "$folder/venv/bin/python" \
    --output-format JSON --output-reproducible --output-file "$out"
.venv/bin/python - "$out" <<'PY'
import json, sys

found = json.load(open(sys.argv[1]))
names = {c["name"] for c in found["components"]}
missing = {"numba", "nats-py", "aiohttp", "msgspec", "shoal-scheduler", "shoal-binder"} - names
assert not missing, f"the bill of materials lacks {missing}"
print(f"{sys.argv[1]}: {len(names)} components")
PY
