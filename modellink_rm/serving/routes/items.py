"""Lists in a request, of which an answer tells the first wrong item."""

from typing import Annotated, TypeVar

from pydantic import Field

_Item = TypeVar("_Item")
# A body has room for millions of wrong items, and each would be described in a kilobyte before one is told.
Items = Annotated[list[_Item], Field(fail_fast=True)]
