"""python -m modellink_rm serve: answer requests for scores over HTTP."""

from collections.abc import Sequence
from importlib.util import find_spec

from modellink_rm.base.errors import UserError
from modellink_rm.base.flags import groups_of, parse_flags
from modellink_rm.base.launcher import end_with_launcher
from modellink_rm.base.log import info, is_first_process, set_up_logging
from modellink_rm.commands.registry import COMMANDS, Command
from modellink_rm.config.scorer import ScorerOptions
from modellink_rm.config.serve import ServeConfig

GROUPS = groups_of(ScorerOptions)
_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def main(argv: Sequence[str]) -> int:
    """Run the command; 0 when it was ended by SIGTERM or Ctrl-C and has answered what it accepted.

    Raises:
        UserError: the flags, the model or the address cannot work.
    """
    set_up_logging()
    parsed = parse_flags(
        argv,
        (ServeConfig, *GROUPS.values()),
        prog="python -m modellink_rm serve",
        description="Serve a reward model over HTTP, to people and to trainers of policies.",
        usage="--load DIR [--port N]",
        example="python -m modellink_rm serve --load checkpoints/llama2 --port 8000",
    )
    config: ServeConfig = parsed[ServeConfig]
    options = ScorerOptions(**{name: parsed[group] for name, group in GROUPS.items()})
    _check_no_handler(options)
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"serve needs {', '.join(missing)}: pip install 'modellink-rm[serve]'")
    from modellink_rm.serving.address import listen, read_token

    token = read_token(config)
    listener = listen(config) if is_first_process() else None
    end_with_launcher()
    # Everything below needs torch, which takes seconds to import: a wrong flag is reported immediately.
    from modellink_rm.inference.plan import plan_scoring
    from modellink_rm.inference.scorer import Scorer
    from modellink_rm.parallel.failures import ending_together
    from modellink_rm.serving.server import serve

    plan = plan_scoring(options)
    if plan.normalization is not None:
        info(f"scores are normalized: {plan.normalization}; --raw gives the model's own")
    with Scorer(plan) as scorer, ending_together():
        serve(scorer, config, listener, token)
    return 0


def _check_no_handler(options: ScorerOptions) -> None:
    """No flag says how records are read: requests have forms of their own.

    Raises:
        UserError: one does.
    """
    given = {"--handler-name": options.scorer.handler_name, "--map-keys": options.scorer.map_keys}
    for name in (name for name, value in given.items() if value is not None):
        raise UserError(
            f"{name} is not for serve: a request has one of the forms that /docs and docs/serving.md list; "
            "leave it out"
        )


COMMANDS.add(Command(summary="serve a reward model over HTTP", main=main), "serve")
