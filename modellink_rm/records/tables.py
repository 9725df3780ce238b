"""Records of parquet and arrow files, read batch by batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from modellink_rm.base.errors import UserError
from modellink_rm.config.limits import DEFAULT_LIMITS, Limits
from modellink_rm.records.compressed import opened_for_seeking
from modellink_rm.records.record import RawRecord, record_of_row

_ROWS_AT_A_TIME = 256
_ARROW_FILE_MAGIC = b"ARROW1"


def read_parquet(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[RawRecord]:
    """The rows of a parquet file.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged.
    """
    pyarrow = _pyarrow(path)
    from pyarrow import parquet

    with opened_for_seeking(path, limits) as file:
        try:
            table = parquet.ParquetFile(file, pre_buffer=False)
            batches = table.iter_batches(batch_size=_ROWS_AT_A_TIME, use_threads=False)
            yield from _rows(path, batches, limits)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a name
            raise _damaged(path, error) from None


def parquet_rows(files: Sequence[Path]) -> int:
    """Rows of parquet files, from their ends; 0 where a file is of another kind, or cannot be read."""
    if any(path.suffix.lower() != ".parquet" for path in files):
        return 0
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        return 0
    try:
        return sum(parquet.read_metadata(path).num_rows for path in files)
    except (ArrowException, OSError):  # reading it says what is wrong
        return 0


def read_arrow(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[RawRecord]:
    """The rows of an arrow file, or of an arrow stream as the datasets library stores them.

    Raises:
        UserError: pyarrow is not installed, or the file is damaged.
    """
    pyarrow = _pyarrow(path)
    with opened_for_seeking(path, limits) as file:
        try:
            yield from _rows(path, _arrow_batches(pyarrow, file), limits)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a name
            raise _damaged(path, error) from None


def _arrow_batches(pyarrow: Any, file: IO[bytes]) -> Iterator[Any]:
    is_file = file.read(len(_ARROW_FILE_MAGIC)) == _ARROW_FILE_MAGIC
    file.seek(0)
    if not is_file:
        batches = pyarrow.ipc.open_stream(file)
    else:
        reader = pyarrow.ipc.open_file(file)
        batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
    for batch in batches:
        _check_offsets(pyarrow, batch)
        yield batch


def _check_offsets(pyarrow: Any, batch: Any) -> None:
    """Check that the offsets and indices of a batch stay within its buffers.

    pyarrow takes them as they stand in the file: a wrong one ends the process, or gives what lies elsewhere
    in its memory as a text. Text that is not UTF-8 is the matter of its row alone.

    Raises:
        pyarrow.ArrowInvalid: one does not.
    """
    for column in batch.columns:
        column.view(_with_bytes_for_text(pyarrow, column.type)).validate(full=True)


def _with_bytes_for_text(pyarrow: Any, kind: Any) -> Any:
    """The arrow type with bytes in place of text, which may be any; that of a dictionary as it is."""
    types = pyarrow.types
    for is_text, of_bytes in (
        (types.is_string, pyarrow.binary),
        (types.is_large_string, pyarrow.large_binary),
        (types.is_string_view, pyarrow.binary_view),
    ):
        if is_text(kind):
            return of_bytes()
    if types.is_struct(kind):
        fields = (kind.field(index) for index in range(kind.num_fields))
        return pyarrow.struct([one.with_type(_with_bytes_for_text(pyarrow, one.type)) for one in fields])
    if types.is_map(kind):
        key, item = (_with_bytes_for_text(pyarrow, one) for one in (kind.key_type, kind.item_type))
        return pyarrow.map_(key, item)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        values = kind.value_field.with_type(_with_bytes_for_text(pyarrow, kind.value_type))
        if types.is_fixed_size_list(kind):
            return pyarrow.list_(values, kind.list_size)
        return pyarrow.large_list(values) if types.is_large_list(kind) else pyarrow.list_(values)
    return kind


def _rows(path: Path, batches: Iterator[Any], limits: Limits) -> Iterator[RawRecord]:
    index = 0
    for batch in batches:
        _check_names(path, batch.schema.names)
        for offset in range(0, batch.num_rows, _ROWS_AT_A_TIME):
            for row in _row_values(batch.slice(offset, _ROWS_AT_A_TIME)):
                place = f"{path}[{index}]"
                yield (
                    RawRecord(place, b"", problem=row)
                    if isinstance(row, str)
                    else record_of_row(place, row, limits)
                )
                index += 1


def _check_names(path: Path, names: list[str]) -> None:
    """Refuse a table in which two columns have the same name: a row would hold only one of them."""
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a column twice: {', '.join(names)}")


def _row_values(batch: Any) -> list[dict[str, Any] | str]:
    """The fields of each row; a problem in place of those that cannot be read."""
    try:
        rows: list[dict[str, Any] | str] = batch.to_pylist()
        return rows
    except (ValueError, OverflowError):  # text that is not UTF-8; a time that Python has no type for
        if batch.num_rows == 1:
            return [_one_row(batch)]
        return [row for index in range(batch.num_rows) for row in _row_values(batch.slice(index, 1))]


def _one_row(batch: Any) -> dict[str, Any] | str:
    """The fields of a row of which Python does not have every type, a time in nanoseconds as text."""
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[0].as_py()
        except UnicodeDecodeError:
            return "invalid UTF-8"
        except (ValueError, OverflowError):
            try:
                text: str = column.cast("string")[0].as_py()
            except (ValueError, NotImplementedError):  # pyarrow's own errors are such
                return "a date or time that Python has no type for"
            row[name] = text.replace(" ", "T", 1)  # as JSON has other times
    return row


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"reading {path} needs pyarrow: pip install 'modellink-rm[arrow]'") from None
    return pyarrow


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is cut off or damaged: {str(error).splitlines()[0]}")
