"""A small run's files, made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from modellink_rm.report.run_files import ScoredExample

HOSTILE = "</pre><script>document.title='run'</script><img src=http://example.org/x onerror=alert(1)>&amp;"
NUM_PAIRS = 40
SETS = ("valid", "maths", "train")


def scored(number: int, *, set: str = "valid", iteration: int = 0, **values: Any) -> ScoredExample:
    """An example whose margin grows with its number after training, from below zero on."""
    generator = np.random.default_rng([number, iteration])
    chosen = float(generator.normal()) + (0.1 * number - 0.5 if iteration else 0.0)
    return ScoredExample(
        **{
            "iteration": iteration,
            "set": set,
            "dataset": "data/pairs",
            "row": number,
            "source": ("maths", "a/<b>chat", "")[number % 3],
            "scores": (chosen, float(generator.normal())),
            "ranks": (1, 2),
            "num_tokens": (5 + number, 7),
            **values,
        }
    )


def write_run(directory: Path, *, num_steps: int = 8, scored_sets: tuple[str, ...] = SETS) -> Path:
    """metrics.jsonl, scores.jsonl and about.json of a run with two held-out sets."""
    directory.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for step in range(num_steps + 1):
        if step:
            rows.append(
                {"iteration": step, "epoch": step / 4, "loss": 1 / step, "accuracy": 0.5 + 0.05 * step}
                | {"margin": 0.1 * step, "grad_norm": 2.0, "learning_rate": 1e-5, "tokens_per_second": 900.0}
            )
        if step % 4 == 0:
            for name in ("valid", "maths"):
                values = {"loss": 0.7 - 0.05 * step, "accuracy": 0.5 + 0.05 * step, "margin": 0.1 * step}
                of_source = {f"{name}/a/<b>chat/accuracy": 0.5}
                rows.append(
                    {"iteration": step, **{f"{name}/{key}": one for key, one in values.items()}, **of_source}
                )
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = {"prompt": f"Why? {HOSTILE}", "responses": (f"Because. {HOSTILE}", "世界")}
    examples = [
        scored(number, set=name, iteration=iteration, **(texts if iteration and number % 5 == 0 else {}))
        for iteration in (0, num_steps)
        for name in scored_sets
        for number in range(NUM_PAIRS)
    ]
    (directory / "scores.jsonl").write_text("".join(json.dumps(one.to_json()) + "\n" for one in examples))
    about = {"started": "2026-11-21T12:00:00Z", "model": HOSTILE, "flags": {"lr": 1e-5, "save": HOSTILE}}
    (directory / "about.json").write_text(json.dumps({**about, "train_iters": num_steps}))
    return directory
