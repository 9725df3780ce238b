"""Reading the JSON files of other tools."""

import json
from pathlib import Path
from typing import Any

from modellink_rm.base.errors import UserError


def read_json_object(
    path: Path, *, expected: str = "a JSON object", damaged: str = "is not valid JSON: {error}"
) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        expected: what the file must hold, as an error calls it.
        damaged: what an error says of a file that is not JSON; {error} is the reason.

    Raises:
        UserError: the file is not JSON, or holds something else than an object.
        OSError: it cannot be read.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} {damaged.format(error=error)}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold {expected}, got {type(value).__name__}")
    return value
