"""A process with a fake GPU: reads cases as JSON, writes what their steps asked of it as JSON.

It must load the device before torch, and nothing of it can be unloaded.
"""

import json
import sys
import warnings
from pathlib import Path

from tests.fake_cuda.library import load_library


def main() -> None:
    """Measure the cases of stdin, with the library that the argument names."""
    load_library(Path(sys.argv[1]))
    warnings.simplefilter("ignore")
    from tests.fake_cuda.device import stand_in_for_cuda

    stand_in_for_cuda()
    from tests.fake_cuda.case import Case
    from tests.fake_cuda.step import measure

    measured = [measure(Case(**fields)) for fields in json.load(sys.stdin)]
    json.dump([vars(one) for one in measured], sys.stdout)


if __name__ == "__main__":
    main()
