#!/usr/bin/env bash
# Install the wheel of a folder into an empty environment and run the commands a newcomer runs first.
#   bash tools/smoke_wheel.sh dist
set -euo pipefail
wheel=$(ls "$(realpath "$1")"/*.whl)
UV=$(command -v uv || echo "$(dirname "$0")/../.uv/bin/uv")
UV=$(realpath "$UV")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
"$UV" venv --quiet --python '>=3.11' venv
"$UV" pip install --quiet --python venv "$wheel"
PATH="$place/venv/bin:$PATH"
hfgd --version
hfgd recipes >/dev/null
hfgd train hfgd_mobilenetv2 --data scenes --out run --set data.limit=4 --set train.iterations=1 \
  --set train.batch_size=2 --set 'augment.crop=[65,65]' --set model.backbone.pretrained=false
hfgd eval run --data scenes --limit 2 --out report
hfgd predict run run/panels.png --out predictions
test -s report/report.html
test -s predictions/labels/panels.png
echo "the wheel works: $(basename "$wheel")"
