"""The shared library of `guard.cpp`, built once for each version of torch; nothing here imports torch."""

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")


def compiler() -> str | None:
    """A C++ compiler of this machine, or None."""
    found = (shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))
    return next((path for path in found if path), None)


def torch_directory() -> Path:
    """Where torch is installed."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def build_library() -> Path:
    """The library, from the cache of this machine's temporary files or built into it in some ten seconds."""
    torch = torch_directory()
    version = (torch / "version.py").read_bytes()
    key = hashlib.sha256(SOURCE.read_bytes() + version + sys.version.encode()).hexdigest()[:16]
    cache = Path(tempfile.gettempdir()) / f"modellink-rm-fake-cuda-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    assert cache.stat().st_uid == os.getuid(), f"{cache} is another user's"
    library = cache / f"fake-cuda-{key}.so"
    if library.exists():
        return library
    cxx = compiler()
    assert cxx is not None
    with tempfile.TemporaryDirectory(dir=cache) as directory:
        unfinished = Path(directory) / library.name
        subprocess.run(
            [
                *(cxx, "-std=c++20", "-O0", "-shared", "-fPIC", str(SOURCE), "-o", str(unfinished)),
                *(f"-I{torch / 'include'}", f"-I{torch / 'include/torch/csrc/api/include'}"),
                *(f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", "-Wl,--no-as-needed"),
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=240,
        )
        unfinished.replace(library)
    return library


def load_library(library: Path) -> None:
    """Give torch, which must not be imported yet, the device."""
    assert "torch" not in sys.modules, "the device must be there before torch"
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(torch_directory() / "lib" / name), ctypes.RTLD_GLOBAL)
    assert ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL).fake_cuda_is_loaded()
