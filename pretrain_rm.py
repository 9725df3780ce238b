"""Train a reward model: torchrun --nproc_per_node 2 pretrain_rm.py --help."""

import sys

from modellink_rm.base.errors import run_command
from modellink_rm.commands.train import main

if __name__ == "__main__":  # checkpoint writers are processes that import this file again
    sys.exit(run_command(main, sys.argv[1:]))
