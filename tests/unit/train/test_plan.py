"""A run that cannot work is refused in one line, before any process group starts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from modellink_rm.base.errors import UserError
from modellink_rm.base.log import set_up_logging
from modellink_rm.batching.planner import computed_tokens
from modellink_rm.checkpoint.contract import CONTRACT_NAME
from modellink_rm.commands.preprocess import main as preprocess_main
from modellink_rm.commands.train import run_config
from modellink_rm.dataset.dataset import open_dataset
from modellink_rm.dataset.indexed import IndexedWriter, bin_path, idx_path
from modellink_rm.dataset.manifest import array_prefix
from modellink_rm.estimate.memory import CPU
from modellink_rm.train.memory import workload_of
from modellink_rm.train.plan import RunPlan, plan_run
from tests.tiny_data import (
    random_steps,
    write_random_rows,
    write_random_steps,
    write_rows,
    write_tokenizer,
)
from tests.tiny_models import write_tiny_llama


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("plan")
    write_tiny_llama(directory / "model", value_head=True)
    write_tiny_llama(directory / "headless")
    write_tokenizer(directory / "model")
    write_tokenizer(directory / "headless")
    write_random_rows(directory / "pairs", 20)
    return directory


def plan(directory: Path, flags: str = "", *, world_size: int = 1) -> RunPlan:
    words = (
        f"--stage rm --is-pairwise-dataset --load {directory}/model --load-checkpoint-loosely "
        f"--data-path {directory}/pairs --seq-length 64 --train-iters 2"
    ).split()
    return plan_run(run_config([*words, *flags.split()]), world_size=world_size)


def test_plan_of_a_good_run_is_made(directory: Path) -> None:
    plan(directory, "--tensor-model-parallel-size 2", world_size=2)


@pytest.mark.parametrize(
    ("flags", "max_tokens"),
    [
        ("--micro-batch-size 3", 2 * 3 * 64),  # a pair has two responses of up to --seq-length 64
        ("--micro-batch-size 3 --seq-length 48", 2 * 3 * 48),
        ("--micro-batch-size 3 --max-tokens-per-micro-batch 100", 100),
    ],
)
def test_forward_pass_has_room_for_both_responses_of_a_micro_batch(
    flags: str, max_tokens: int, directory: Path
) -> None:
    assert plan(directory, flags).max_tokens == max_tokens


def test_memory_is_that_of_the_prompt_with_the_most_tokens(directory: Path) -> None:
    """A prompt with many responses is one micro-batch, for which the memory of a pair was said."""
    ranked = write_random_rows(directory / "ranked", 20, most_responses=6)
    limits = ["--seq-length 20", "--seq-length 40 --micro-batch-size 4", f"--valid-data-path held={ranked}"]
    rows = [f"--data-path {ranked} {limits[0]}", f"--data-path {ranked} {limits[1]}", limits[2]]
    found = [
        workload_of(plan(directory, words), CPU, world_size=1, compiles_elementwise=False).num_tokens
        for words in rows
    ]
    dataset = open_dataset(ranked)
    responses = [[len(ids.input_ids) for ids in dataset.rows.responses(row)] for row in range(len(dataset))]
    largest = max(sum(min(length, 20) for length in of_row) for of_row in responses)
    assert found == [largest, 2 * 4 * 40, max(map(sum, responses))]
    assert largest > 2 * 20


def test_memory_counts_a_prompt_that_is_shared_once(directory: Path, tmp_path: Path) -> None:
    """A warning for each response with a prompt of its own would come where nothing is wrong."""
    ranked = {"prompt": "q " * 20, "responses": ["a", "bb", "c", "dd", "e"], "ranks": [1, 2, 3, 4, 5]}
    (tmp_path / "in.jsonl").write_text(json.dumps(ranked))
    words = f"--input {tmp_path}/in.jsonl --handler-name RankedResponsesHandler --prompt-type llama2"
    words += f" --tokenizer-name-or-path {directory}/model --output-prefix {tmp_path}/ranked"
    assert preprocess_main(words.split()) == 0
    found = {}
    for flag, seq_length in (("", 90), ("--no-prefix-sharing", 90), ("", 30)):
        flags = f"--data-path {tmp_path}/ranked --split 1,0,0 --seq-length {seq_length} {flag}"
        made = plan(directory, flags)
        run = workload_of(made, CPU, world_size=1, compiles_elementwise=False)
        computed = computed_tokens(made.blend.train[0], share_prefixes=not flag)
        found[flag, seq_length] = computed, run.num_tokens
    assert found["", 90][0] < 2 * 90 == found["", 90][1]
    assert 2 * 90 < found["--no-prefix-sharing", 90][0] == found["--no-prefix-sharing", 90][1]
    assert found["", 30][0] <= 2 * 30 < found["", 30][1] < 5 * 30


def test_contract_of_a_run_has_the_settings_of_its_flags(directory: Path) -> None:
    default = json.loads(plan(directory).info_files[CONTRACT_NAME])
    assert (default["tokenizer_not_use_fast"], default["seq_length"]) == (False, 64)
    assert default["truncation"] == "right"
    flags = "--tokenizer-not-use-fast --seq-length 48 --truncation keep-ends --prompt-type llama2"
    contract = json.loads(plan(directory, flags).info_files[CONTRACT_NAME])
    assert (contract["tokenizer_not_use_fast"], contract["seq_length"]) == (True, 48)
    assert (contract["truncation"], contract["prompt_type"]) == ("keep-ends", "llama2")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--sequence-paralel", "unknown flag --sequence-paralel; did you mean --sequence-parallel?"),
        ("--stage rmm", "unknown --stage 'rmm'; did you mean rm?"),
        ("--loss-type sigmoi", "did you mean sigmoid?"),
        ("--lr fast", "--lr must be a number, got"),
        ("--min-lr 1", "--min-lr must lie between 0 and --lr"),
        ("--split 1,x", "--split takes up to three weights"),
        ("--train-samples 4", "one of --train-iters, --train-samples and --train-epochs"),
        ("--tensor-model-parallel-size 2", "does not divide the number of processes, 1"),
        ("--sequence-parallel", "--sequence-parallel needs --tensor-model-parallel-size of 2 or more"),
        (
            "--num-layers-per-virtual-pipeline-stage 1",
            "stage needs --pipeline-model-parallel-size of 2 or more, got 1",
        ),
        ("--num-layers-per-virtual-pipeline-stage 0", "must be at least 1, got 0"),
        ("--overlap-param-gather", "needs --use-distributed-optimizer"),
        ("--num-layers 5", "--num-layers 5 contradicts num_layers 4"),
        ("--hidden-size 128", "--hidden-size 128 contradicts hidden_size 64"),
        ("--seq-length 4096", "above the model's --max-position-embeddings 512"),
        ("--load /nowhere", "--load /nowhere: there is no such directory"),
        ("--data-path /nowhere/pairs", "is missing"),
        ("--prompt-type lama2", "unknown --prompt-type 'lama2'; did you mean llama2?"),
        ("--prompt-type chatglm3", "chatglm3"),
        ("--truncation keep-ends", "--truncation keep-ends needs --prompt-type"),
        ("--auto-resume", "--auto-resume needs --save"),
        ("--async-save", "--async-save needs --save"),
        ("--keep-last 2", "--keep-last needs --save"),
        ("--save-retain-interval 2", "--save-retain-interval needs --save"),
        ("--padded-vocab-size 100", "--padded-vocab-size 100 is below the 320 embedding rows"),
        ("--tokenizer-name-or-path /nowhere", "--tokenizer-name-or-path /nowhere does not exist"),
    ],
)
def test_mistake_is_one_line(directory: Path, flags: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(directory, flags)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "world_size", "message"),
    [
        ("--tensor-model-parallel-size 3", 3, "--tensor-model-parallel-size 3 does not divide"),
        (
            "--pipeline-model-parallel-size 3",
            3,
            "size 3 does not divide --num-layers 4",
        ),
        (
            "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 3",
            2,
            "--num-layers-per-virtual-pipeline-stage 3 does not divide the 2 layers of a stage",
        ),
        (
            "--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 1 "
            "--recompute-granularity full --recompute-num-layers 2",
            2,
            "--recompute-num-layers 2 does not divide the 1 layers of a stage",
        ),
        ("--global-batch-size 2", 4, "--global-batch-size 2 is below the 4 data-parallel replicas"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(
    directory: Path, flags: str, world_size: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan(directory, flags, world_size=world_size)


def test_pairwise_flag_is_required_with_the_stage(directory: Path) -> None:
    with pytest.raises(UserError, match="--stage orm needs --is-pairwise-dataset"):
        run_config(f"--stage orm --load {directory} --data-path x --train-iters 1".split())


def test_headless_model_needs_the_loose_flag(directory: Path) -> None:
    words = f"--stage rm --is-pairwise-dataset --data-path {directory}/pairs --train-iters 1 --seq-length 64"
    with pytest.raises(UserError, match="--load-checkpoint-loosely"):
        plan_run(run_config([*words.split(), "--load", f"{directory}/headless"]), world_size=1)
    # A language-model head beside a value head, as LLaMA-Factory and TRL leave it, is passed over.
    plan_run(run_config([*words.split(), "--load", f"{directory}/model"]), world_size=1)


def test_save_with_another_runs_checkpoints_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "iter_0000007").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7\n")
    with pytest.raises(UserError, match=r"holds a run up to iter_0000007.*give --auto-resume"):
        plan(directory, f"--save {tmp_path}")


def test_truncated_data_is_refused_by_name(directory: Path, tmp_path: Path) -> None:
    for path in directory.glob("pairs_*"):
        shutil.copy(path, tmp_path)
    cut = tmp_path / "pairs_packed_rejected_input_ids_document.bin"
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(UserError, match=cut.name):
        plan(directory, f"--data-path {tmp_path}/pairs")


def test_unsupported_config_field_is_refused(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory / "model", tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "spiral", "factor": 2.0, "rope_theta": 1e4}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="spiral"):
        plan(directory, f"--load {tmp_path}/model")


def test_every_flag_of_the_chatglm3_and_llama2_scripts_is_known() -> None:
    flags = (
        "--use-mcore-models --tensor-model-parallel-size 2 --pipeline-model-parallel-size 4 --num-layers 28 "
        "--hidden-size 4096 --ffn-hidden-size 13696 --num-attention-heads 32 --seq-length 1024 "
        "--micro-batch-size 8 --global-batch-size 8 --max-position-embeddings 1024 --padded-vocab-size 65024 "
        "--make-vocab-size-divisible-by 1 --group-query-attention --num-query-groups 2 --disable-bias-linear "
        "--add-qkv-bias --position-embedding-type rope --use-glm-rope --rotary-percent 0.5 "
        "--normalization RMSNorm --use-flash-attn --use-fused-rmsnorm --use-fused-swiglu --num-workers 4 "
        "--swiglu --use-distributed-optimizer --tokenizer-type PretrainedFromHF --tokenizer-name-or-path P "
        "--load D --lr 1e-7 --train-iters 2000 --lr-decay-style constant "
        "--untie-embeddings-and-output-weights --attention-dropout 0.0 --init-method-std 0.01 "
        "--hidden-dropout 0.0 --no-masked-softmax-fusion --attention-softmax-in-fp32 --min-lr 1e-8 "
        "--weight-decay 0.0 --lr-warmup-fraction 0.0 --clip-grad 1.0 --adam-beta1 0.9 --adam-beta2 0.999 "
        "--initial-loss-scale 4096 --no-gradient-accumulation-fusion --no-load-optim --no-load-rng "
        "--is-pairwise-dataset --load-checkpoint-loosely --prompt-type chatglm3 --norm-epsilon 1e-6 "
        "--finetune --no-post-layer-norm --stage rm --data-path P --split 9798,200,0 --log-interval 1 "
        "--save-interval 1000 --eval-interval 1000 --eval-iters 10 --distributed-backend nccl "
        "--variable-seq-lengths --save D --pad-to-multiple-of 8 --tokenizer-padding-side left --no-shuffle "
        "--padded-samples"
    )
    config = run_config(flags.split())
    assert config.parallel.pipeline_model_parallel_size == 4
    assert config.model.post_layer_norm is False
    assert config.checkpoint.load_optim is False
    assert config.optim.lr_warmup_fraction == 0.0
    assert config.data.shuffle is False


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--lr inf", "--lr must be a finite number, got 'inf'"),
        ("--seed -1", "--seed must lie between 0"),
        ("--adam-eps -1", "--adam-eps must be above 0"),
        ("--distributed-timeout-minutes 0", "--distributed-timeout-minutes must be at least 1"),
        ("--lr-warmup-iters 10", "warmup must be shorter than the schedule"),
        ("--recompute-granularity full --recompute-num-layers 3", "does not divide the 4 layers of a stage"),
        ("--train-last-n-layers 5", "--train-last-n-layers 5 is above the model's 4 layers"),
        (
            "--train-last-n-layers 1 --freeze-base",
            "--freeze-base and --train-last-n-layers exclude each other",
        ),
        ("--head-dropout 1", "--head-dropout must lie in \\[0, 1\\), got 1"),
        ("@nowhere.args", "an @file of flags cannot be read"),
    ],
)
def test_value_that_cannot_work_is_refused(directory: Path, flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(directory, flags)


@pytest.mark.parametrize("flag", ["--save", "--tensorboard-dir"])
def test_directory_that_is_a_file_is_refused(flag: str, directory: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"{flag} {path} cannot be made a directory"):
            plan(directory, f"{flag} {path}")


@pytest.mark.parametrize("name", ["model", "headless"])
def test_a_models_own_directory_does_not_become_that_of_a_run(
    name: str, directory: Path, tmp_path: Path
) -> None:
    """Its --load would be the checkpoint from then on, not the model."""
    (tmp_path / "link").symlink_to(directory / name)
    for path in (directory / name, tmp_path / "link"):
        with pytest.raises(UserError, match=f"--save {path} is a Hugging Face directory"):
            plan(directory, f"--save {path}")


def test_refused_run_leaves_no_directory(directory: Path, tmp_path: Path) -> None:
    flags = f"--save {tmp_path}/new/run --tensorboard-dir {tmp_path}/new/tb"
    with pytest.raises(UserError, match="--load /nowhere"):
        plan(directory, f"{flags} --load /nowhere")
    assert list(tmp_path.iterdir()) == []
    plan(directory, flags)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["run", "tb"]


@pytest.mark.parametrize("name", ["locked", "locked/below/it"])
def test_directory_that_cannot_be_written_to_is_refused(
    name: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    # Asked rather than made so: the superuser may write anywhere.
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "locked")
    with pytest.raises(UserError, match=f"--save {tmp_path}/{name} cannot be written to"):
        plan(directory, f"--save {tmp_path}/{name}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "--profile needs --tensorboard-dir or --save"),
        ("--save {tmp}", "--profile-step-start 10 is not before the last of 2 steps"),
        ("--save {tmp} --profile-step-start 3 --profile-step-end 3", "below --profile-step-end 3"),
        ("--save {tmp} --profile-ranks 0 2", "--profile-ranks 2 is not one of the run's 1 processes"),
    ],
)
def test_profile_that_would_write_nothing_is_refused(
    flags: str, message: str, directory: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        plan(directory, f"--profile {flags}".format(tmp=tmp_path))


def test_flags_for_overlapped_exchanges_are_accepted() -> None:
    flags = "--tp-comm-overlap --tp-comm-overlap-cfg file --use-ascend-mc2 --use-pytorch-profiler"
    run_config(f"--stage rm --is-pairwise-dataset --load D --data-path P --train-iters 1 {flags}".split())


@pytest.mark.parametrize("bad", [320, 5000, -1])
def test_id_without_an_embedding_row_is_refused_by_row(bad: int, directory: Path, tmp_path: Path) -> None:
    for path in directory.glob("pairs_*"):
        shutil.copy(path, tmp_path)
    data = tmp_path / "pairs_packed_chosen_input_ids_document.bin"
    ids = np.fromfile(data, dtype="<i4")
    ids[0] = bad
    ids.tofile(data)
    with pytest.raises(UserError, match=r"row 0 has no token, or an id that is not one of the model's 320"):
        plan(directory, f"--data-path {tmp_path}/pairs")


def test_row_without_a_token_is_refused(directory: Path, tmp_path: Path) -> None:
    lengths = {"chosen": [3, 0, 2], "rejected": [3, 4, 2]}
    for side, sizes in lengths.items():
        for kind in ("input_ids", "labels"):
            path = array_prefix(tmp_path / "pairs", f"{side}_{kind}")
            with bin_path(path).open("wb") as data, idx_path(path).open("wb") as index:
                writer = IndexedWriter(data, index)
                writer.append(np.full(sum(sizes), 5, dtype=np.int32), np.array(sizes, dtype=np.int32))
                writer.finish()
    with pytest.raises(UserError, match="row 1 has no token"):
        plan(directory, f"--data-path {tmp_path}/pairs")


def test_two_data_sets_are_each_trained_on_and_validated(directory: Path) -> None:
    write_random_rows(directory / "more", 10, seed=8)
    blend = plan(directory, f"--data-path {directory}/pairs {directory}/more --split 80,20,0").blend
    assert [one.rows for one in blend.train.datasets] == [range(16), range(8)]
    assert [one.rows for one in blend.valid.datasets] == [range(16, 20), range(8, 10)]


def test_an_epoch_of_a_mixture_and_its_shares_are_said(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr("modellink_rm.train.plan_data.info", messages.append)
    write_random_rows(directory / "more", 10, seed=8)
    words = f"--data-path {directory}/pairs {directory}/more --split 80,20,0 --global-batch-size 10"
    found = plan(directory, f"{words} --data-epochs 0.5 4")
    assert found.blend.mixture.epoch_size == 40  # 16 rows half a time and 8 rows four times
    assert [line for line in messages if line.startswith("mixture: ")] == [
        "mixture: pairs: 20.00% of the samples, 0.25 epochs of its 16 rows",
        "mixture: more: 80.00% of the samples, 2.00 epochs of its 8 rows",
    ]


def test_flag_without_effect_is_told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr("modellink_rm.train.plan.warn_once", messages.append)
    plan(directory, "--focal-gamma 3")
    assert "--focal-gamma has no effect here: it is for --loss-type focal" in messages


def test_held_out_set_that_the_loss_does_not_take_is_named_by_its_flag(
    directory: Path, tmp_path: Path
) -> None:
    write_random_steps(tmp_path / "steps", 4)
    with pytest.raises(UserError, match=r"^--valid-data-path .*steps holds labelled steps"):
        plan(directory, f"--valid-data-path {tmp_path}/steps")


def test_data_set_given_twice_is_refused(directory: Path) -> None:
    with pytest.raises(UserError, match="hold the same rows"):
        plan(directory, f"--data-path {directory}/pairs {directory}/../{directory.name}/pairs")


def test_manifest_is_read_once_for_a_plan(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"instruction": "q", "chosen": "a", "rejected": "b"}))
    words = f"--input {tmp_path}/in.jsonl --handler-name AlpacaStylePairwiseHandler --prompt-type llama2"
    words += f" --tokenizer-name-or-path {directory}/model --output-prefix {tmp_path}/x"
    assert preprocess_main(words.split()) == 0
    reads: list[Path] = []
    read_bytes = Path.read_bytes

    def noted_read(path: Path) -> bytes:
        reads.append(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", noted_read)
    plan(directory, f"--data-path {tmp_path}/x --split 1,0,0")
    names = [path.name for path in reads if path.parent == tmp_path]
    assert len(names) == len(set(names)) == 6  # the checksums, and a .idx each


def test_lost_tracker_does_not_hide_a_checkpoint(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "iter_0000007").mkdir()
    (tmp_path / "iter_0000009.tmp").mkdir()
    with pytest.raises(UserError, match="holds a run up to iter_0000007"):
        plan(directory, f"--save {tmp_path}")


def test_broken_sentencepiece_model_is_named(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory / "model", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.model").write_bytes(b"garbage")
    with pytest.raises(UserError, match=r"tokenizer\.model is not a sentencepiece model"):
        plan(directory, f"--load {tmp_path}/model")
    (tmp_path / "model" / "tokenizer.model").unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        plan(directory, f"--load {tmp_path}/model")


def test_prompts_with_more_than_two_responses_train_without_a_flag(directory: Path, tmp_path: Path) -> None:
    records = [{"prompt": f"q {i}", "responses": ["a", "b", "c"], "ranks": [1, 2, 3]} for i in range(20)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    words = f"--input {tmp_path}/in.jsonl --handler-name RankedResponsesHandler --prompt-type llama2"
    words += f" --tokenizer-name-or-path {directory}/model --output-prefix {tmp_path}/ranked"
    assert preprocess_main(words.split()) == 0
    assert plan(directory, f"--data-path {tmp_path}/ranked").objective.labels.examples == "prompts"
    with pytest.raises(UserError, match="ranked has rows without a margin, by which this --loss"):
        plan(directory, f"--data-path {tmp_path}/ranked --loss-type scaled")


def test_held_out_steps_end_as_those_of_the_training_data(directory: Path, tmp_path: Path) -> None:
    for name, placeholder, seed in (("train", "dog", 1), ("same", "dog", 2), ("other", "cat", 3)):
        records = write_rows(tmp_path / f"{name}.jsonl", random_steps(4, seed=seed))
        words = (
            f"--input {records} --output-prefix {tmp_path}/{name} --handler-name StepwiseHandler "
            f"--prompt-type llama2 --tokenizer-name-or-path {directory}/headless"
        )
        assert preprocess_main([*words.split(), "--placeholder-token", placeholder]) == 0
    words = (
        f"--stage prm --load {directory}/headless --load-checkpoint-loosely --data-path {tmp_path}/train "
        f"--split 1,0,0 --seq-length 64 --train-iters 1 --valid-data-path {tmp_path}/"
    )
    assert len(plan_run(run_config(f"{words}same".split()), world_size=1).held_out) == 1
    with pytest.raises(UserError, match="other ends steps with 'cat', and the training data with 'dog'"):
        plan_run(run_config(f"{words}other".split()), world_size=1)


def test_responses_whose_every_step_is_cut_off_are_told_and_refused_where_none_is_left(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_random_steps(tmp_path / "steps", 12)  # prompts of up to 29 tokens
    words = f"--stage prm --load {directory}/headless --load-checkpoint-loosely --train-iters 1 --seq-length"
    data = f"--data-path {tmp_path}/steps --split 1,0,0"
    rows = open_dataset(tmp_path / "steps").rows
    firsts = [response.step_ends[0] for row in range(12) if (response := rows.responses(row)[0]).step_ends]
    length = sorted(firsts)[6]
    assert min(firsts) > 2
    with pytest.raises(UserError, match="--seq-length 2 cuts off every step of every response; raise it"):
        plan_run(run_config(f"{words} 2 {data}".split()), world_size=1)
    set_up_logging()
    plan_run(run_config(f"{words} {length} {data}".split()), world_size=1)
    number = sum(first >= length for first in firsts)
    assert f"{length} cuts off every step of {number} of 12 responses, which" in capsys.readouterr().err
