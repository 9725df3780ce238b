"""Flags of every command that reads records: limits on what a file may ask for."""

from dataclasses import dataclass

from modellink_rm.base.flags import check_minimums, flag

# Below this size the ratio does not matter: small files of equal lines are not an attack.
_ALWAYS_ALLOWED = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on input, so that no file fills the memory or the disk."""

    max_record_bytes: int = flag(
        16 << 20,
        minimum=1,
        level="rare",
        help="longest record, in bytes; a longer one is refused, and ends the command in a JSON array or CSV",
    )
    max_expansion: int = flag(
        200,
        minimum=1,
        level="rare",
        help="how many times larger than its file a compressed input may be, above 256 MiB",
    )

    def __post_init__(self) -> None:
        check_minimums(self)

    def max_content(self, num_compressed: int) -> int:
        """Largest content, in bytes, of a compressed file of `num_compressed` bytes."""
        return max(_ALWAYS_ALLOWED, self.max_expansion * num_compressed)

    @property
    def too_long(self) -> str:
        """The reason to refuse a record that is over the limit."""
        return f"longer than --max-record-bytes {self.max_record_bytes}"


DEFAULT_LIMITS = Limits()
