"""preprocess_data.py: the flags in, the files and a summary out."""

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from modellink_rm.config.preprocess import IGNORED_FLAGS, PreprocessConfig
from modellink_rm.config.tokenizer import TokenizerConfig
from modellink_rm.errors import UserError
from modellink_rm.flags import parse_flags
from modellink_rm.log import set_up_logging

_DESCRIPTION = (
    "Turn preference pairs into the token files that pretrain_rm.py reads. "
    "@FILE on the command line stands for the words of FILE."
)


def main(argv: Sequence[str]) -> int:
    """Exit code of preprocess_data.py with these words after its name.

    Raises:
        UserError: a mistake of the user's, to be printed without a traceback.
    """
    set_up_logging()
    groups = parse_flags(
        argv,
        [PreprocessConfig, TokenizerConfig],
        prog="preprocess_data.py",
        description=_DESCRIPTION,
        ignored=IGNORED_FLAGS,
    )
    # Imported late, so that --help answers at once.
    from modellink_rm.data.preprocess import preprocess
    from modellink_rm.data.preprocess_report import summary

    config: PreprocessConfig = groups[PreprocessConfig]
    started = time.monotonic()
    # What ends the process must first let the temporary files be removed.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        manifest = preprocess(config, groups[TokenizerConfig])
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    except OSError as error:
        raise UserError(f"{error.filename or config.output_prefix}: {error.strerror or error}") from None
    finally:
        signal.signal(signal.SIGTERM, previous)
    print(summary(manifest, Path(config.output_prefix), seconds=time.monotonic() - started))
    return 0


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt
