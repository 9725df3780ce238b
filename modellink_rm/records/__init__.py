"""Records of preference files, each with its place; they are parsed by the worker that uses them."""

from modellink_rm.config.limits import Limits
from modellink_rm.records.blocks import blocks_of, check_resumed_block, text_bytes, text_crc32
from modellink_rm.records.inputs import input_files, read_raw_records, read_records
from modellink_rm.records.record import (
    BadRecord,
    RawRecord,
    Record,
    RecordBlock,
    RecordError,
    check_unicode,
    json_in_text,
    parse_record,
    shortened,
)

__all__ = [
    "BadRecord",
    "Limits",
    "RawRecord",
    "Record",
    "RecordBlock",
    "RecordError",
    "blocks_of",
    "check_resumed_block",
    "check_unicode",
    "input_files",
    "json_in_text",
    "parse_record",
    "read_raw_records",
    "read_records",
    "shortened",
    "text_bytes",
    "text_crc32",
]
