"""``python -m hfgd`` is the command ``hfgd``."""

from hfgd.cli import main

main()
