"""python -m modellink_rm estimate: parallel sizes, memory and time of a run before it is started."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from modellink_rm.base.flags import parse_flags
from modellink_rm.base.log import set_up_logging
from modellink_rm.base.outputs import prepare_output
from modellink_rm.commands.output import files_of_model
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.estimate import EstimateConfig
from modellink_rm.config.ignored import IGNORED_TRAINER_FLAGS
from modellink_rm.config.lora import LoraConfig
from modellink_rm.config.model import ModelConfig


def main(argv: Sequence[str]) -> int:
    """Run the command with these words after its name; 0 if there is a way to run that fits.

    Raises:
        UserError: nothing fits, or a mistake of the user's.
    """
    set_up_logging()
    groups = parse_flags(
        argv,
        (EstimateConfig, LoraConfig, ModelConfig),
        prog="python -m modellink_rm estimate",
        description="Choose how to train a model on given GPUs: memory of each, time of a step, flags.",
        usage="--load DIR --gpus NxKIND",
        example="python -m modellink_rm estimate --load llama-2-7b-hf --gpus 8x80G "
        "--seq-length 4096 --global-batch-size 128",
        ignored=IGNORED_TRAINER_FLAGS,
    )
    from modellink_rm.base.files import write_whole
    from modellink_rm.base.free_memory import free_host_memory
    from modellink_rm.checkpoint.source import shape_of
    from modellink_rm.estimate.choose import Question, best_choice
    from modellink_rm.estimate.gpus import parse_gpus
    from modellink_rm.estimate.report import report_json, report_lines
    from modellink_rm.model.fits import check_seq_length

    config: EstimateConfig = groups[EstimateConfig]
    model: ModelConfig = groups[ModelConfig]
    lora: LoraConfig = groups[LoraConfig]
    prepare_output(config.output, inputs=files_of_model(Path(config.load)) if config.load else [])
    cluster = parse_gpus(config.gpus, host_memory=free_host_memory())
    if config.peak_tflops is not None:
        gpu = dataclasses.replace(cluster.gpu, tflops=config.peak_tflops)
        cluster = dataclasses.replace(cluster, gpu=gpu)
    question = Question(
        shape=shape_of(config.load, model, in_4_bits=lora.load_in_4bit),
        model=model,
        lora=lora,
        config=config,
        cluster=cluster,
    )
    check_seq_length(config.seq_length, question.shape)
    choice = best_choice(question)
    print(*report_lines(question, choice), sep="\n")
    if config.output is not None:
        write_whole(Path(config.output), report_json(question, choice))
    return 0


COMMANDS.add(
    Command(summary="choose parallel sizes for GPUs: memory, time of a step, flags", main=main), "estimate"
)
