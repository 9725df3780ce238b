"""Rows written as a parquet file, block by block."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import warn_once

PARQUET = ".parquet"
Row = dict[str, Any]


def check_table_output(path: Path, *, flag: str = "--output") -> None:
    """Check that a file of this name can be written here, if it is a table.

    Raises:
        UserError: pyarrow is not installed.
    """
    if path.suffix.lower() == PARQUET:
        _pyarrow(path, flag)


def write_parquet(file: BinaryIO, blocks: Callable[[], Iterable[Sequence[Row]]], *, path: Path) -> None:
    """Write the rows as one parquet file, in their order; a column of several types holds them as JSON.

    Args:
        blocks: the rows, in blocks that fit the memory; called two or three times, since the columns and
            their types are known only after all of them.
        path: of the file, for messages.
    """
    pyarrow = _pyarrow(path, "--output")
    from pyarrow import parquet

    schema = _Columns(pyarrow)
    for block in blocks():
        schema.add(block)
    for block in blocks() if schema.widened else ():
        schema.check_widened(block)
    schema.warn_of_keys()
    with parquet.ParquetWriter(file, schema.schema()) as writer:
        for block in blocks():
            writer.write_table(schema.table(block))


class _Columns:
    """The columns of all rows so far, and their types; None for one whose values are written as JSON.

    Attributes:
        widened: names of the columns whose type is not that of every block.
    """

    def __init__(self, pyarrow: Any) -> None:
        self._pyarrow = pyarrow
        self._types: dict[str, Any] = {}
        self.widened: set[str] = set()
        self._filled: set[str] = set()  # whose objects have not all keys of the type

    def add(self, rows: Sequence[Row]) -> None:
        """Take in the columns of further rows."""
        for name, values in _columns(rows):
            found = self._type_of(name, values)
            if name in self._types:
                own, found = found, self._common(self._types[name], found)
                if found is not None and not found == own == self._types[name]:
                    self.widened.add(name)
            self._take(name, found)

    def check_widened(self, rows: Sequence[Row]) -> None:
        """Take a column for one of several kinds if its common type, of later blocks, holds other values."""
        for name in sorted(self.widened):
            if self._types[name] is not None:
                self._take(name, self._type_of(name, [row.get(name) for row in rows], self._types[name]))

    def warn_of_keys(self) -> None:
        """Say which objects are read with keys that they were written without."""
        for name in sorted(self._filled):
            if self._types[name] is not None:
                warn_once(
                    f"field {name!r} has objects of different keys: in the table each has those of all, null "
                    "where it had none; an --output that ends in .jsonl keeps them as they are"
                )

    def _take(self, name: str, kind: Any) -> None:
        if kind is None and self._types.get(name, ()) is not None:
            warn_once(f"field {name!r} has values of several kinds: its column holds them as JSON")
        self._types[name] = kind

    def schema(self) -> Any:
        """The schema of the file."""
        return self._pyarrow.schema([(name, self._written(kind)) for name, kind in self._types.items()])

    def table(self, rows: Sequence[Row]) -> Any:
        """The rows as a table of the schema."""
        arrays = []
        for name, kind in self._types.items():
            values = [row.get(name) for row in rows]
            if kind is None:
                values = [None if one is None else json.dumps(one, ensure_ascii=False) for one in values]
            arrays.append(self._pyarrow.array(values, self._written(kind)))
        return self._pyarrow.Table.from_arrays(arrays, schema=self.schema())

    def _written(self, kind: Any) -> Any:
        return self._pyarrow.string() if kind is None else kind

    def _type_of(self, name: str, values: Sequence[Any], kind: Any = None) -> Any:
        """The type of the values; None if they have none in common, or one that parquet does not know.

        Args:
            kind: the type that they are to have, if it is known.
        """
        try:
            found = self._pyarrow.array(values, kind)
        except (self._pyarrow.ArrowException, OverflowError):
            return None
        if _has_empty_struct(self._pyarrow, found.type):
            return None
        if _has_truth(self._pyarrow.types, found.type, values):
            return None
        if self._pyarrow.types.is_nested(found.type) and found.to_pylist() != values:
            self._filled.add(name)
        return found.type

    def _common(self, one: Any, other: Any) -> Any:
        if one is None or other is None:
            return None
        schemas = [self._pyarrow.schema([("column", kind)]) for kind in (one, other)]
        try:
            return self._pyarrow.unify_schemas(schemas, promote_options="permissive").field(0).type
        except self._pyarrow.ArrowException:
            return None


def _columns(rows: Sequence[Row]) -> Iterator[tuple[str, list[Any]]]:
    """The names of all rows, each with its value in every row, None where a row has none."""
    for name in dict.fromkeys(name for row in rows for name in row):
        yield name, [row.get(name) for row in rows]


def _has_empty_struct(pyarrow: Any, kind: Any) -> bool:
    if pyarrow.types.is_struct(kind) and not kind.num_fields:
        return True
    return any(_has_empty_struct(pyarrow, kind.field(index).type) for index in range(kind.num_fields))


def _has_truth(types: Any, kind: Any, values: Iterable[Any]) -> bool:
    """Whether a truth value stands where the type has a float: arrow makes it 1.0 or 0.0 after a float."""
    if types.is_floating(kind):
        return any(isinstance(one, bool) for one in values)
    given = [one for one in values if one is not None] if types.is_nested(kind) else []
    if types.is_list(kind):
        return _has_truth(types, kind.value_type, (one for several in given for one in several))
    fields = [kind.field(index) for index in range(kind.num_fields)]
    return any(_has_truth(types, field.type, (one.get(field.name) for one in given)) for field in fields)


def _pyarrow(path: Path, flag: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{flag} {path} needs pyarrow: pip install 'modellink-rm[arrow]'") from None
    return pyarrow
