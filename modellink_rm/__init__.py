"""Train and serve reward models on megatron-core.

    from modellink_rm import Scorer, preprocess_data, train_model

They are imported when they are first asked for: `import modellink_rm` alone needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from modellink_rm.version import __version__

if TYPE_CHECKING:
    from modellink_rm.inference.scorer import Scorer
    from modellink_rm.preprocess.run import preprocess_data
    from modellink_rm.train.run import train_model

__all__ = ["Scorer", "__version__", "preprocess_data", "train_model"]

_PLACES = {
    "Scorer": "modellink_rm.inference.scorer",
    "preprocess_data": "modellink_rm.preprocess.run",
    "train_model": "modellink_rm.train.run",
}


def __getattr__(name: str) -> Any:
    """What a name of `__all__` stands for, imported now.

    Raises:
        AttributeError: there is no such name.
    """
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
