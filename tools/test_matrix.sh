#!/usr/bin/env bash
# The wheel of dist/ in clean environments: PYTHONS × RESOLUTIONS, each with the quick tests. The oldest
# are those allowed that have a wheel for that Python: numpy 1.26, for example, has none for 3.13.
# The result of each is a line in dist/matrix.txt, whatever the others do.
set -u
cd "$(dirname "$0")/.."
PYTHONS=${PYTHONS:-3.11 3.12 3.13 3.14}
RESOLUTIONS=${RESOLUTIONS:-lowest-direct highest}
TESTS=${TESTS:-tests/test_cli.py tests/test_layering.py tests/test_rows.py tests/test_losses.py tests/test_checkpoint.py}
UV=$(command -v uv || echo "$PWD/.uv/bin/uv")
wheel=$(ls "$PWD"/dist/*.whl)
failed=0
: > dist/matrix.txt
for python in $PYTHONS; do
  for resolution in $RESOLUTIONS; do
    place=$(mktemp -d)
    what="python $python, $resolution"
    if ! "$UV" venv --quiet --python "$python" "$place/venv" 2>"$place/log"; then
      echo "$what: no such Python here" | tee -a dist/matrix.txt
      continue
    fi
    # the project's own requirements are the direct ones only when it is resolved, not its wheel
    if ! "$UV" pip compile --quiet --python-version "$python" --only-binary :all: \
      --resolution "$resolution" pyproject.toml --output-file "$place/needs" >/dev/null 2>"$place/log" ||
      ! "$UV" pip install --quiet --python "$place/venv" --requirements "$place/needs" "$wheel" \
      "pytest>=8.3" "pytest-xdist>=3.6" "scikit-learn>=1.5" "torchmetrics>=1.8" 2>"$place/log"; then
      echo "$what: cannot be installed: $(tail -n 1 "$place/log")" | tee -a dist/matrix.txt
      failed=1
      continue
    fi
    # from a folder without src/, so that it is the wheel that is tested
    cp -r tests pyproject.toml README.md CONTRIBUTING.md docs examples benchmarks "$place/" 2>/dev/null
    versions=$("$place/venv/bin/python" -c "import torch, timm, numpy; print('torch', torch.__version__, 'timm', timm.__version__, 'numpy', numpy.__version__)")
    # shellcheck disable=SC2086
    if (cd "$place" && venv/bin/python -m pytest -m "not slow" $TESTS >"$place/log" 2>&1); then
      echo "$what: passed ($versions; $(grep -E '[0-9]+ passed' "$place/log" | tail -n 1))" | tee -a dist/matrix.txt
    else
      echo "$what: FAILED ($versions)" | tee -a dist/matrix.txt
      tail -n 15 "$place/log"
      failed=1
    fi
    rm -rf "$place"
  done
done
exit $failed
