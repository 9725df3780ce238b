"""A virtual environment for each trainer that ours is compared with."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# torch comes alone and first: left to the resolver, a host without a GPU gets gigabytes of CUDA packages.
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Peer:
    """A trainer from pip.

    Attributes:
        runner: script beside this file, run by the environment's python.
        pip: pip commands after torch, in order.
    """

    label: str
    runner: str
    pip: tuple[tuple[str, ...], ...]


PEERS = {
    "trl": Peer(
        label="TRL",
        runner="trl_runner.py",
        # The last two for the tokenizer that RewardTrainer wants, though it tokenises nothing here.
        pip=(
            ("install", "trl==1.16.0", "transformers==5.23.0", "peft==0.21.2", "sentencepiece", "protobuf"),
        ),
    ),
    "llama_factory": Peer(
        label="LLaMA-Factory",
        runner="llama_factory_runner.py",
        pip=(
            ("install", "llamafactory==0.9.5", TORCH),
            # Builds for CUDA that cannot be imported beside torch's CPU build; text needs neither.
            ("uninstall", "--yes", "torchvision", "torchaudio"),
        ),
    ),
    "openrlhf": Peer(
        label="OpenRLHF",
        runner="openrlhf_runner.py",
        # deepspeed and flash-attn, which it requires, are not built without CUDA (see the runner).
        pip=(
            ("install", "--no-deps", "openrlhf==0.11.2"),
            ("install", "transformers==5.15.0", "datasets", "accelerate", "peft", "pylatexenc"),
        ),
    ),
}


def peer_python(name: str, directory: Path) -> Path | str:
    """The python of a peer's environment, made if it is missing; or why there is none.

    A reason is kept in the environment's directory, so that the next run does not try again.
    """
    home = directory.resolve() / name
    python, reason, made = home / "bin" / "python", home / "not-installed.txt", home / "made.txt"
    if reason.exists():
        return reason.read_text().strip()
    if made.exists():  # last of all: a run that was ended meanwhile leaves a part
        return python
    home.mkdir(parents=True, exist_ok=True)
    print(f"{home}: making an environment for {PEERS[name].label}", flush=True)
    commands = [[sys.executable, "-m", "venv", str(home)]]
    for words in (("install", TORCH), *PEERS[name].pip):
        commands.append([str(python), "-m", "pip", "--quiet", *words])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if "Error" in line or "ERROR" in line]
            reason.write_text(f"{' '.join(command[1:])}: {lines[-1] if lines else done.returncode}\n")
            return reason.read_text().strip()
    made.touch()
    return python
