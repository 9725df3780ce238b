"""Preference pairs to the token files that pretrain_rm.py reads: see --help."""

import sys

from modellink_rm.base.errors import run_command
from modellink_rm.commands.preprocess import main

if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
