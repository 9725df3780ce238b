"""Limits of the size of a record and of the content of a compressed file."""

from dataclasses import dataclass

# Below this size the ratio does not matter: small files of equal lines are not an attack.
_ALWAYS_ALLOWED = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on input, so that no file fills the memory or the disk.

    Attributes:
        max_record_bytes: longest text of one record, in bytes.
        max_expansion: largest ratio of a compressed file's content to its size, above 256 MiB.
    """

    max_record_bytes: int = 16 << 20
    max_expansion: int = 200

    def max_content(self, num_compressed: int) -> int:
        """Largest content, in bytes, of a compressed file of `num_compressed` bytes."""
        return max(_ALWAYS_ALLOWED, self.max_expansion * num_compressed)

    @property
    def too_long(self) -> str:
        """The reason to refuse a record that is over the limit."""
        return f"longer than --max-record-bytes {self.max_record_bytes}"


DEFAULT_LIMITS = Limits()
