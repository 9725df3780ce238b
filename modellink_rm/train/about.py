"""about.json: what a run is, for who reads its metrics later."""

import dataclasses
import importlib.metadata
import json
import os
import platform as python_platform
import time
from collections.abc import Mapping
from typing import Any

import psutil

from modellink_rm.base.platform import Platform
from modellink_rm.parallel.groups import Ranks
from modellink_rm.train.plan import RunPlan
from modellink_rm.version import __version__

_PACKAGES = ("torch", "megatron-core", "transformers", "numpy")


def about_run(plan: RunPlan, platform: Platform, ranks: Ranks) -> bytes:
    """The content of about.json, of the latest start of a run."""
    pipeline, tensor, data, context = ranks.sizes
    values = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": plan.model.source.name,
        "flags": _flags(plan),
        "train_iters": plan.train_iters,
        "train_examples": len(plan.blend.train),
        "held_out": {one.name: len(one.part) for one in plan.held_out},
        "data": _data(plan),
        "parallel": {"tensor": tensor, "pipeline": pipeline, "data": data, "context": context},
        "versions": {
            "modellink-rm": __version__,
            "python": python_platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "machine": _machine(platform, ranks.world_size),
    }
    return json.dumps(values, indent=1).encode() + b"\n"


def _data(plan: RunPlan) -> list[dict[str, Any]]:
    """The data sets, with the share of each in the steps."""
    pairs = zip(plan.fingerprints, plan.blend.mixture.shares(), strict=True)
    return [{"prefix": one["prefix"], "rows": one["num_rows"], "share": share} for one, share in pairs]


def _flags(plan: RunPlan) -> dict[str, Any]:
    """The flags with other values than their defaults, by field."""
    found = {}
    for group in dataclasses.fields(plan.config):
        flags = getattr(plan.config, group.name)
        for field in dataclasses.fields(flags):
            value = getattr(flags, field.name)
            if value != field.default:
                found[field.name] = value
    return found


def _machine(platform: Platform, world_size: int) -> Mapping[str, Any]:
    return {
        "device": platform.hardware,
        "processes": world_size,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{python_platform.system()} {python_platform.machine()}",
    }
