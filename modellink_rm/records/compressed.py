"""Files opened for reading, and decompressed (gzip, zstd) on the fly."""

import errno
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from modellink_rm.base.errors import UserError
from modellink_rm.config.limits import DEFAULT_LIMITS, Limits

_GZIP = (".gz", ".gzip")
_ZSTD = (".zst", ".zstd")
_READ_BYTES = 1 << 10  # of zstd input at a time: its output can be 32,000 times as long


def format_suffix(path: Path) -> str:
    """The ending of a name that gives its format: ".json" for x.json and for x.JSON.gz."""
    if is_compressed(path):
        path = path.with_suffix("")
    return path.suffix.lower()


def is_compressed(path: Path) -> bool:
    """Whether a file is compressed with gzip or zstd, judged by its name."""
    return path.suffix.lower() in _GZIP + _ZSTD


@contextmanager
def opened(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[IO[bytes]]:
    """The decompressed content of a file, as a stream from its start.

    Raises:
        UserError: the compressed data is cut off, damaged or too large, zstandard is not installed, or the
            disk does not give the file.
    """
    suffix = path.suffix.lower()
    with path.open("rb") as file, _naming(path):
        if suffix not in _GZIP + _ZSTD:
            yield file
            return
        stream = gzip.GzipFile(fileobj=file) if suffix in _GZIP else _zstd_stream(file, path)
        try:
            yield io.BufferedReader(_BoundedStream(stream, path, limits), 1 << 20)
        except (EOFError, zlib.error, gzip.BadGzipFile, _DamagedError) as error:
            raise UserError(f"{path} is cut off or damaged: {error}") from None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of a disk, or of a network's file system, get the name of the file, which they do not have.

    Raises:
        UserError: there was one.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EIO, errno.ESTALE):
            raise
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


@contextmanager
def opened_for_seeking(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[IO[bytes]]:
    """The decompressed content as a seekable file: a temporary one on disk if `path` is compressed.

    Raises:
        UserError: as `opened`.
    """
    if not is_compressed(path):
        with path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as whole:
        with opened(path, limits) as stream:
            shutil.copyfileobj(stream, whole, 1 << 20)
        whole.seek(0)
        yield whole


class _DamagedError(Exception):
    pass


def _zstd_stream(file: IO[bytes], path: Path) -> io.RawIOBase:
    try:
        import zstandard
    except ImportError:
        raise UserError(f"{path} is compressed with zstd: pip install 'modellink-rm[zstd]'") from None
    return _ZstdStream(file, zstandard)


class _BoundedStream(io.RawIOBase):
    """The content of a compressed file, up to what the limits allow."""

    def __init__(self, content: Any, path: Path, limits: Limits) -> None:
        self._content = content
        self._path = path
        self._limits = limits
        self._num_left = limits.max_content(path.stat().st_size)

    def readable(self) -> bool:
        """True: a stream to read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Number of bytes written to `buffer`; 0 at the end.

        Raises:
            UserError: there is more than the limits allow.
        """
        count: int = self._content.readinto(buffer)
        self._num_left -= count
        if self._num_left < 0:
            raise UserError(
                f"{self._path} decompresses to more than {self._limits.max_expansion} times its size: if "
                "that is meant, give a larger --max-expansion"
            )
        return count


class _ZstdStream(io.RawIOBase):
    """All frames of a zstd file; zstandard's own reader does not notice that a file is cut off."""

    def __init__(self, file: IO[bytes], zstandard: Any) -> None:
        self._file = file
        self._zstandard = zstandard
        self._frame: Any = None  # None between two frames
        self._compressed = b""
        self._content = memoryview(b"")

    def readable(self) -> bool:
        """True: a stream to read from."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Number of bytes written to `buffer`; 0 at the end."""
        while not self._content:
            data = self._compressed or self._file.read(_READ_BYTES)
            if not data:
                if self._frame is not None:
                    raise EOFError("it ends inside a frame")
                return 0
            self._content = memoryview(self._decompressed(data))
        count = min(len(buffer), len(self._content))
        buffer[:count] = self._content[:count]
        self._content = self._content[count:]
        return count

    def _decompressed(self, data: bytes) -> bytes:
        if self._frame is None:
            self._frame = self._zstandard.ZstdDecompressor().decompressobj()
        try:
            content: bytes = self._frame.decompress(data)
        except self._zstandard.ZstdError as error:
            raise _DamagedError(error) from None
        self._compressed = b""
        if self._frame.eof:
            self._compressed = self._frame.unused_data
            self._frame = None
        return content
