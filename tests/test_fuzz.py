"""The fuzzer finds what is broken, and a bounded number of its cases finds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZER = Path(__file__).with_name("fuzz.py")


@pytest.mark.slow
def test_some_cases_of_each_kind(tmp_path):
    words = [sys.executable, FUZZER, "--cases", "100", "--minutes", "1", "--seed", "0"]
    done = subprocess.run([*words, "--kept", tmp_path / "kept"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "findings: 0" in done.stdout


@pytest.mark.slow
def test_the_fuzzer_sees_a_traceback(tmp_path):
    """A reader that raises what no command expects is a finding of nearly every case."""
    (tmp_path / "sitecustomize.py").write_text(
        "import hfgd.parse as p\ndef broken(*_):\n    raise ZeroDivisionError\np.parse_yaml = broken\n"
        "p.read_yaml = broken\n"
    )
    words = [
        sys.executable,
        FUZZER,
        "--cases",
        "5",
        "--only",
        "folder",
        "--kept",
        tmp_path / "kept",
    ]
    import os

    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "exit code 70" in done.stdout
    assert list((tmp_path / "kept").glob("folder-*/findings.txt"))
