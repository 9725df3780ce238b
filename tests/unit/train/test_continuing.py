"""A run that goes on: which flags may change, which are announced, which are refused, what is the default."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.checkpoint.layout import CheckpointInfo, read_checkpoint_info
from modellink_rm.commands.train import run_config
from modellink_rm.config.run import RunConfig
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.train.continuing import check_continues, plan_length
from tests.tiny_data import write_random_rows

CHECKPOINT = Path(__file__).parents[2] / "fixtures" / "checkpoint_v1" / "iter_0000002"
FREE = "free"  # where and how fast it runs, what it tells: nothing is said
ANNOUNCED = "announced"
REFUSED = "refused"
COMPARED = "compared by content: with the weights, the contract, the data, the lengths of the schedule"
# Every flag of a run, and what becomes of another value of it in a run that goes on.
TABLE: dict[str, dict[str, str]] = {
    "training": {
        FREE: "stage is_pairwise_dataset micro_batch_size max_tokens_per_micro_batch eval_interval "
        "eval_iters early_stopping_patience exit_interval exit_duration_in_mins exit_signal_handler",
        ANNOUNCED: "loss_type global_batch_size seed",
        COMPARED: "train_iters train_samples train_epochs",
        REFUSED: "freeze_base train_last_n_layers",
    },
    "data": {
        FREE: "prefix_sharing num_workers valid_data_path",
        ANNOUNCED: "seq_length truncation shuffle data_temperature data_epochs max_samples",
        COMPARED: "data_path prompt_type",
        REFUSED: "split",
    },
    "dpo": {
        ANNOUNCED: "dpo_loss_type dpo_beta dpo_label_smoothing pref_ftx simpo_gamma",
        COMPARED: "reference_load",
    },
    "optim": {
        FREE: "overlap overlap_grad_reduce overlap_param_gather",
        ANNOUNCED: "lr min_lr lr_decay_style lr_warmup_init weight_decay adam_beta1 adam_beta2 adam_eps "
        "clip_grad lr_wsd_decay_style lr_wsd_decay_iters",
        COMPARED: "lr_decay_iters lr_warmup_iters lr_warmup_fraction",
        REFUSED: "use_distributed_optimizer",
    },
    "precision": {
        FREE: "recompute_granularity recompute_modules recompute_method recompute_num_layers "
        "gradient_accumulation_fusion",
        REFUSED: "bf16",
    },
    "model": {
        FREE: "init_method_std make_vocab_size_divisible_by disable_bias_linear position_embedding_type "
        "normalization swiglu",
        ANNOUNCED: "attention_dropout hidden_dropout head_dropout",
        COMPARED: "num_layers hidden_size ffn_hidden_size num_attention_heads group_query_attention "
        "num_query_groups kv_channels padded_vocab_size add_qkv_bias use_glm_rope rotary_percent "
        "post_layer_norm head_bias max_position_embeddings norm_epsilon rotary_base "
        "router_aux_loss_coef router_z_loss_coef",
    },
}
# Groups of which every flag has one outcome.
WHOLE_GROUPS = {
    "tokenizer": COMPARED,
    "lora": COMPARED,
    "objective": ANNOUNCED,
    "parallel": FREE,
    "kernels": FREE,
    "checkpoint": FREE,
    "reporting": FREE,
}
WORDS = "--stage rm --is-pairwise-dataset --data-path data --train-iters 4 --global-batch-size 2"


def config_of(flags: str = "") -> RunConfig:
    return run_config([*WORDS.split(), *flags.split()])


def outcomes() -> dict[tuple[str, str], str]:
    """The table by (group, field)."""
    found = {
        (group, name): said
        for group, row in TABLE.items()
        for said, names in row.items()
        for name in names.split()
    }
    for group, said in WHOLE_GROUPS.items():
        found |= {(group, field.name): said for field in dataclasses.fields(getattr(config_of(), group))}
    return found


def checkpoint_of(config: RunConfig, **values: Any) -> CheckpointInfo:
    """A checkpoint of a run of that configuration."""
    flags = json.loads(json.dumps(dataclasses.asdict(config)))
    saved = read_checkpoint_info(CHECKPOINT)
    return dataclasses.replace(saved, run=dataclasses.replace(saved.run, config=flags, **values))


def another(value: Any) -> Any:
    """A value that the flag does not have."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 3
    if isinstance(value, float):
        return value + 0.25
    if isinstance(value, tuple):
        return tuple(map(another, value)) or (3,)
    return "5,5" if isinstance(value, str) else 3


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr("modellink_rm.train.continuing.warn_once", messages.append)
    return messages


def go_on(
    config: RunConfig, checkpoint: CheckpointInfo, fingerprints: Any = (), held_out: Any = None
) -> None:
    length = plan_length(config, 1, checkpoint.run, num_examples=10)
    training = dataclasses.replace(config.training, global_batch_size=length.batch_size)
    config = dataclasses.replace(config, training=training)
    check_continues(config, checkpoint, length=length, fingerprints=fingerprints, held_out=held_out or {})


def test_the_table_has_every_flag_of_a_run() -> None:
    config = config_of()
    flags = {
        (group.name, field.name)
        for group in dataclasses.fields(config)
        for field in dataclasses.fields(getattr(config, group.name))
    }
    assert set(outcomes()) == flags


@pytest.mark.parametrize(("group", "name"), outcomes())
def test_a_flag_of_another_value_is_treated_as_the_table_says(
    group: str, name: str, announced: list[str]
) -> None:
    config = config_of()
    checkpoint = checkpoint_of(config)
    checkpoint.run.config[group][name] = another(getattr(getattr(config, group), name))
    said = outcomes()[group, name]
    if said == REFUSED:
        with pytest.raises(UserError) as refused:
            go_on(config, checkpoint)
        assert "\n" not in str(refused.value)
        return
    go_on(config, checkpoint)
    assert len(announced) == (said == ANNOUNCED)
    assert all(f"--{name.replace('_', '-')}".removeprefix("--") in line for line in announced)


def test_what_the_best_checkpoint_is_known_by_is_announced_when_it_changes(announced: list[str]) -> None:
    best = "--save run --save-best loss"
    then = config_of(f"{best} --eval-iters 7 --valid-data-path x=data/x")
    go_on(then, checkpoint_of(then))
    go_on(config_of("--valid-data-path x=data/y"), checkpoint_of(then))
    assert announced == []
    go_on(config_of(f"{best} --eval-iters 7 --valid-data-path x=data/y"), checkpoint_of(then))
    (line,) = announced
    assert "resumed with another --valid-data-path; --save-best loss compares with evaluations of" in line


def test_other_rows_under_the_name_of_a_held_out_set_are_announced(announced: list[str]) -> None:
    then = {"a": {".bin": "1"}, "b": {".bin": "2"}}
    checkpoint = checkpoint_of(config_of(), held_out=then)
    go_on(config_of(), checkpoint, held_out={**then, "new": {".bin": "3"}})
    go_on(config_of(), checkpoint_of(config_of()), held_out=then)  # of an earlier version
    assert announced == []
    go_on(config_of(), checkpoint, held_out={**then, "b": {".bin": "3"}})
    assert announced == [
        "the run is resumed with other rows in the held-out set b; its evaluations so far are of those before"
    ]


def test_an_unchanged_run_says_nothing(announced: list[str]) -> None:
    config = config_of("--lr-decay-style cosine --lr-warmup-iters 1")
    length = plan_length(config, 1, None, num_examples=10)
    go_on(config, checkpoint_of(config, schedule=length.schedule, consumed_samples=4))
    assert announced == []


def test_a_switch_is_announced_as_it_is_typed(announced: list[str]) -> None:
    go_on(config_of("--no-shuffle"), checkpoint_of(config_of()))
    go_on(config_of(), checkpoint_of(config_of("--no-shuffle")))
    assert announced == [
        "the run is resumed with --no-shuffle; it started without",
        "the run is resumed with no --no-shuffle; it started with it",
    ]


@pytest.mark.parametrize(
    ("common", "more"),
    [
        ("--max-samples 5", "--data-temperature 2.0"),
        ("--lr-decay-style WSD", "--lr-wsd-decay-iters 3"),
        ("", "--data-epochs 1.5"),
    ],
)
def test_a_flag_without_a_default_is_announced_when_it_is_given_and_when_it_is_left_out(
    common: str, more: str, announced: list[str]
) -> None:
    without, given = config_of(common), config_of(f"{common} {more}")
    go_on(given, checkpoint_of(without))
    go_on(without, checkpoint_of(given))
    name, value = more.split()
    assert announced == [
        f"the run is resumed with {more}; it started without",
        f"the run is resumed with no {name}; it started with {value}",
    ]


def test_the_batch_is_by_default_that_of_the_run_that_goes_on() -> None:
    began = run_config(WORDS.removesuffix(" --global-batch-size 2").split())
    began = dataclasses.replace(began, training=dataclasses.replace(began.training, micro_batch_size=4))
    now = dataclasses.replace(began, training=dataclasses.replace(began.training, micro_batch_size=8))
    for checkpoint in (checkpoint_of(began), checkpoint_of(began, parallel_sizes=(2, 1, 1, 1))):
        assert plan_length(now, 1, checkpoint.run, num_examples=10).batch_size == 4
    of_three = checkpoint_of(began, parallel_sizes=(1, 1, 3, 1))
    assert plan_length(now, 1, of_three.run, num_examples=10).batch_size == 12
    assert plan_length(now, 1, None, num_examples=10).batch_size == 8


def test_another_batch_is_announced(announced: list[str]) -> None:
    go_on(config_of("--global-batch-size 6"), checkpoint_of(config_of()))
    assert announced == ["the run is resumed with --global-batch-size 6; it started with 2"]


def test_samples_to_train_on_count_those_of_another_batch_before() -> None:
    words = "--stage rm --is-pairwise-dataset --data-path data --train-samples 100 --global-batch-size"
    began, now = run_config([*words.split(), "4"]), run_config([*words.split(), "8"])
    checkpoint = checkpoint_of(began, iteration=10, consumed_samples=40)
    # 40 samples in 10 steps, 56 in 7 more, and no 8 are left.
    assert plan_length(now, 1, checkpoint.run, num_examples=10).train_iters == 17
    assert plan_length(began, 1, checkpoint.run, num_examples=10).train_iters == 25
    # As the log counts the epochs of each data set; it took 17 batches of 8.
    assert plan_length(now, 1, checkpoint.run, num_examples=10).num_samples == 40 + 56


@pytest.mark.parametrize(
    ("epochs", "train_iters"),
    [("1", 3), ("1.5", 4), ("0.1", 1), ("0.3", 1), ("2.4", 6)],  # of 10 pairs, in batches of 4
)
def test_epochs_are_rounded_up_to_whole_batches(epochs: str, train_iters: int) -> None:
    words = f"--stage rm --is-pairwise-dataset --data-path data --global-batch-size 4 --train-epochs {epochs}"
    assert plan_length(run_config(words.split()), 1, None, num_examples=10).train_iters == train_iters


def test_epochs_count_the_samples_of_another_batch_before() -> None:
    words = "--stage rm --is-pairwise-dataset --data-path data --train-epochs 2 --global-batch-size"
    began, now = run_config([*words.split(), "4"]), run_config([*words.split(), "8"])
    checkpoint = checkpoint_of(began, iteration=2, consumed_samples=8)
    assert plan_length(now, 1, checkpoint.run, num_examples=10).train_iters == 2 + 2  # 12 samples are left
    ended = checkpoint_of(began, iteration=6, consumed_samples=24)
    assert plan_length(began, 1, ended.run, num_examples=10).train_iters == 6


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        ("--train-iters 6", []),
        (
            "--train-iters 6 --lr-decay-style cosine",
            ["a learning rate whose decay takes 12 samples; it started with 8"],
        ),
        ("--lr-warmup-iters 2", ["a learning rate whose warmup takes 4 samples; it started with 0"]),
        ("--train-iters 6 --lr-decay-style cosine --lr-decay-iters 4", []),
    ],
)
def test_a_schedule_of_another_length_is_announced(
    flags: str, lines: list[str], announced: list[str]
) -> None:
    config = config_of(flags)
    go_on(config, checkpoint_of(config, schedule=(0, 8), consumed_samples=4))
    assert announced == [f"the run is resumed with {line}" for line in lines]


def fingerprints_of(*prefixes: Path) -> list[dict[str, Any]]:
    return [open_dataset(prefix).fingerprint() for prefix in prefixes]


def test_data_replaced_under_its_prefix_is_refused_in_one_line(tmp_path: Path) -> None:
    write_random_rows(tmp_path / "pairs", 12)
    checkpoint = checkpoint_of(config_of(), data=tuple(fingerprints_of(tmp_path / "pairs")))
    go_on(config_of(), checkpoint, fingerprints_of(tmp_path / "pairs"))
    ids = tmp_path / "pairs_packed_rejected_input_ids_document.bin"
    content = bytearray(ids.read_bytes())
    content[len(content) // 2 // 4 * 4] ^= 1  # one id, of as many bytes
    ids.write_bytes(content)
    with pytest.raises(
        UserError, match=r"other data than it started with.*--finetune starts a new"
    ) as refused:
        go_on(config_of(), checkpoint, fingerprints_of(tmp_path / "pairs"))
    assert "\n" not in str(refused.value)


def test_data_that_was_moved_is_the_same_and_in_another_order_is_not(tmp_path: Path) -> None:
    one, two = (write_random_rows(tmp_path / name, 12, seed=seed) for name, seed in (("one", 1), ("two", 2)))
    checkpoint = checkpoint_of(config_of(), data=tuple(fingerprints_of(one, two)))
    (tmp_path / "moved").mkdir()
    for path in tmp_path.glob("one_*"):
        path.rename(tmp_path / "moved" / path.name)
    moved = tmp_path / "moved" / "one"
    go_on(config_of(), checkpoint, fingerprints_of(moved, two))
    for prefixes in ((two, moved), (moved,), (moved, two, two)):
        with pytest.raises(UserError, match="the run cannot be resumed with"):
            go_on(config_of(), checkpoint, fingerprints_of(*prefixes))


def test_parts_of_equal_shares_are_the_same_split() -> None:
    go_on(config_of("--split 9,1"), checkpoint_of(config_of("--split 90,10,0")))
