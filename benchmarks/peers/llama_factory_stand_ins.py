"""What LLaMA-Factory needs before it is imported here; importing this module provides it."""

import os
import sys
import types
from importlib.machinery import ModuleSpec

import transformers  # noqa: F401  before the stand-in below: it looks for the real package

os.environ["DISABLE_VERSION_CHECK"] = "1"
# It imports torchaudio, whose builds go with CUDA, for audio inputs alone.
torchaudio = types.ModuleType("torchaudio")
torchaudio.__spec__ = ModuleSpec("torchaudio", None)
sys.modules.setdefault("torchaudio", torchaudio)
