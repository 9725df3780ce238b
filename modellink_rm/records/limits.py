"""How large a record may be, and how much a compressed file may hold."""

from dataclasses import dataclass

# Below this, a compressed file is read whatever its ratio: small files of equal lines are no attack.
_ALWAYS_ALLOWED = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of what is read, so that no file takes all memory or the whole disk.

    Attributes:
        max_record_bytes: of the text of one record.
        max_expansion: how many times the bytes of a compressed file its content may have, from 256 MiB on.
    """

    max_record_bytes: int = 16 << 20
    max_expansion: int = 200

    def max_content(self, num_compressed: int) -> int:
        """Bytes that a compressed file of `num_compressed` bytes may hold."""
        return max(_ALWAYS_ALLOWED, self.max_expansion * num_compressed)

    @property
    def too_long(self) -> str:
        """The reason of a record that is over the limit."""
        return f"longer than --max-record-bytes {self.max_record_bytes}"


DEFAULT_LIMITS = Limits()
