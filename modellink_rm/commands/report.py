"""python -m modellink_rm report: the curves and scores of runs as one page."""

from collections.abc import Sequence
from pathlib import Path

from modellink_rm.base.files import check_outputs, write_whole
from modellink_rm.base.flags import parse_flags, with_first_flag
from modellink_rm.base.log import set_up_logging
from modellink_rm.base.outputs import made_directory, prepare_output
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.report import ReportConfig


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when the page is written.

    Raises:
        UserError: the flags or the files of a run cannot work, or matplotlib is not installed.
    """
    set_up_logging()
    config: ReportConfig = parse_flags(
        with_first_flag(argv, "--run"),
        [ReportConfig],
        prog="python -m modellink_rm report",
        description="Write one HTML page with the curves, scores and pairs of a run, or of several.",
        usage="DIR [DIR ...] --output FILE",
        example="python -m modellink_rm report checkpoints/llama2 --output report.html",
    )[ReportConfig]
    # Below, numpy and later matplotlib: a wrong flag is reported immediately.
    from modellink_rm.report.page import make_page
    from modellink_rm.report.pictures import check_matplotlib, picture_files, write_pictures
    from modellink_rm.report.run_files import read_run, run_file_paths

    check_matplotlib()
    directories = [Path(run) for run in config.run]
    prepare_output(config.output, inputs=[path for one in directories for path in run_file_paths(one)])
    pictures = None if config.png is None else made_directory("--png", config.png)
    text, charts = make_page([read_run(directory) for directory in directories])
    check_outputs([("--output", Path(config.output)), *picture_files(pictures, charts)], inputs=[])
    write_whole(Path(config.output), text.encode())
    print(f"report: {config.output} ({len(text.encode()) / 1e6:.1f} MB, {len(charts)} charts)")
    if pictures is not None:
        write_pictures(pictures, charts)
        print(f"pictures: {pictures}")
    return 0


COMMANDS.add(Command(summary="write a run's curves and scores as one HTML page", main=main), "report")
