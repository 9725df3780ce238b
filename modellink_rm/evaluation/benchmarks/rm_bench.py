"""RM-Bench: Liu et al. 2024, arXiv 2410.16184.

Data: total_dataset.json, or the files of its domains, of github.com/THU-KEG/RM-Bench; formulas:
compute_accuracy of its scripts/utils.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modellink_rm.evaluation.benchmarks.benchmark import (
    BENCHMARKS,
    Benchmark,
    BenchmarkRow,
    BenchmarkScore,
    Part,
    missing_note,
    text_field,
    texts_field,
)
from modellink_rm.metrics.accuracy import Floats
from modellink_rm.records import RecordError

DOMAINS = ("chat", "code", "math", "safety")
NUM_STYLES = 3  # concise, detailed, detailed with markdown
# Where the chosen response is the plainer one, the pair is hard.
_CHOSEN, _REJECTED = np.indices((NUM_STYLES, NUM_STYLES))
DIFFICULTIES = {
    "easy": _CHOSEN > _REJECTED,
    "normal": _CHOSEN == _REJECTED,
    "hard": _CHOSEN < _REJECTED,
}


def read_row(fields: Mapping[str, Any], file: Path) -> BenchmarkRow:
    """A prompt with three correct and three wrong responses, one of each style, labelled with its domain.

    The domain is that of the field, or of the file's name where there is none; both parts of safety are one.

    Raises:
        RecordError: a field is missing, has not three texts, or the domain is unknown.
    """
    chosen, rejected = texts_field(fields, "chosen"), texts_field(fields, "rejected")
    if len(chosen) != NUM_STYLES or len(rejected) != NUM_STYLES:
        raise RecordError(f"fields 'chosen' and 'rejected' must have {NUM_STYLES} texts each")
    name = text_field(fields, "domain") if "domain" in fields else file.name
    domain = next((one for one in DOMAINS if name.startswith(one)), None)
    if domain is None:
        raise RecordError(f"neither field 'domain' nor the file's name begins with {', '.join(DOMAINS)}")
    return BenchmarkRow(prompt=text_field(fields, "prompt"), responses=chosen + rejected, label=domain)


def score(labels: Sequence[str], scores: Sequence[Floats]) -> BenchmarkScore:
    """The mean over domains of the share of the nine pairs of styles that are won; a tie is a loss.

    Each difficulty is the mean over domains too. A domain without rows is left out of the means.
    """
    table = np.array(scores).reshape(-1, 2, NUM_STYLES)
    chosen, rejected = table[:, 0, :, None], table[:, 1, None, :]
    wins = (chosen > rejected).astype(np.float64)  # [rows, style of chosen, style of rejected]
    of_row = np.array(labels)
    present = [domain for domain in DOMAINS if (of_row == domain).any()]
    domains, by_difficulty = [], []
    for domain in present:
        rows = of_row == domain
        values = {name: float(wins[rows][:, mask].mean()) for name, mask in DIFFICULTIES.items()}
        domains.append(Part(name=domain, value=sum(values.values()) / 3, num_rows=int(rows.sum())))
        by_difficulty.append(values)
    difficulties = [
        Part(name=name, value=sum(one[name] for one in by_difficulty) / len(present), num_rows=len(labels))
        for name in DIFFICULTIES
    ]
    cells = [
        Part(name=f"{domain.name}, {name}", value=value, num_rows=domain.num_rows)
        for domain, values in zip(domains, by_difficulty, strict=True)
        for name, value in values.items()
    ]
    num_rows = {part.name: part.num_rows for part in domains}
    return BenchmarkScore(
        overall=sum(part.value for part in domains) / len(domains),
        parts={
            "domain": tuple(domains),
            "difficulty": tuple(difficulties),
            "domain and difficulty": tuple(cells),
        },
        credits=wins.mean(axis=(1, 2)),
        ties=int((chosen == rejected).any(axis=(1, 2)).sum()),
        notes=missing_note("domains", domains, DOMAINS),
        strata=tuple(labels),
        weights=np.array([1.0 / len(present) / num_rows[label] for label in labels]),
    )


BENCHMARKS.add(Benchmark(row=read_row, score=score), "rm-bench")
