"""The handlers that --handler-name picks by name; each file of this package registers its own."""

import inspect
from typing import Any

from modellink_rm.base.registry import Registry

HANDLERS: Registry[type[Any]] = Registry(
    "--handler-name",
    package="modellink_rm.handlers",
    entry_points="modellink_rm.handlers",
    accepts=inspect.isclass,
    expected="a class",
)
