"""User time of commands that should answer at once.

python benchmarks/startup.py [--repeat 5]

The median of each command's user time (seconds), each run a fresh process. The page is startup.md.
"""

import argparse
import os
import statistics
import subprocess
import sys

COMMANDS = (
    "--help",
    "recipes",
    "train hfgd_mobilnetv2 --data scenes",  # misspelt
    "info hfgd_mobilenetv2 --no-count",
    "info hfgd_mobilenetv2",
)


def user_seconds(words: list[str]) -> float:
    """User time of one run of ``hfgd`` with these words."""
    before = os.times().children_user
    subprocess.run(
        [sys.executable, "-c", "from hfgd.cli import main; main()", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return os.times().children_user - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    print("| command | user seconds, median |\n| --- | ---: |")
    for command in COMMANDS:
        user_seconds(command.split())  # fills the file cache
        seconds = statistics.median(user_seconds(command.split()) for _ in range(repeat))
        print(f"| `hfgd {command}` | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
