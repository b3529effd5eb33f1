"""``python -m hfgd`` is the command ``hfgd``."""

import sys

if not sys.flags.safe_path:  # Python puts the working folder first, and its files are not ours
    del sys.path[0]

from hfgd.cli import main

main()
