"""The command line: parse, call, print; no logic."""

from hfgd.cli.main import main

__all__ = ["main"]
