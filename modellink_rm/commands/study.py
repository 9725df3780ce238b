"""python -m modellink_rm study: policies compared by the scores of their answers."""

from collections.abc import Sequence
from pathlib import Path

from modellink_rm.base.files import check_outputs, write_whole
from modellink_rm.base.flags import parse_flags
from modellink_rm.base.log import set_up_logging
from modellink_rm.base.outputs import made_directory, prepare_output
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.study import StudyConfig


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when the page is written.

    Raises:
        UserError: the flags or the files cannot work, or matplotlib is not installed.
    """
    set_up_logging()
    config: StudyConfig = parse_flags(
        argv,
        [StudyConfig],
        prog="python -m modellink_rm study",
        description="Compare policies by the scores of their answers to the same prompts.",
        usage="--answers NAME=SCORES NAME=SCORES --output FILE",
        example="python -m modellink_rm study --answers base=a.jsonl tuned=b.jsonl --output study.html",
    )[StudyConfig]
    # Below, numpy and later matplotlib: a wrong flag is reported immediately.
    from modellink_rm.evaluation.read_answers import files_of_study, read_study
    from modellink_rm.evaluation.study_table import study_json, study_lines
    from modellink_rm.report.pictures import check_matplotlib, picture_files, write_pictures
    from modellink_rm.report.study_page import make_study_page

    check_matplotlib()
    inputs = files_of_study(config)
    outputs = [("--output", Path(config.output))]
    outputs += [("--results", Path(config.results))] if config.results is not None else []
    check_outputs(outputs, inputs=inputs)
    for flag, path in outputs:
        prepare_output(str(path), inputs=inputs, flag=flag)
    pictures = None if config.png is None else made_directory("--png", config.png)
    study = read_study(config)
    for line in study_lines(study):
        print(line)
    text, charts = make_study_page(study)
    check_outputs([*outputs, *picture_files(pictures, charts)], inputs=inputs)
    write_whole(Path(config.output), text.encode())
    print(f"study: {config.output} ({len(text.encode()) / 1e6:.1f} MB, {len(charts)} charts)")
    if config.results is not None:
        write_whole(Path(config.results), study_json(study))
        print(f"results: {config.results}")
    if pictures is not None:
        write_pictures(pictures, charts)
        print(f"pictures: {pictures}")
    return 0


COMMANDS.add(Command(summary="compare policies by the scores of their answers", main=main), "study")
