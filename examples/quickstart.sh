#!/usr/bin/env bash
# Preference pairs in; a trained reward model, its evaluation, a report and a directory for transformers out:
# the commands of the README on pairs and a small base model that quickstart_data.py makes. About a minute and
# a half on two cores, without network or GPU.
#
#   bash examples/quickstart.sh
#   OUT=/tmp/quickstart SEED=7 TRAIN_ITERS=90 GPUS=0,1 bash examples/quickstart.sh
set -euo pipefail

OUT=${OUT:-quickstart_output}
SEED=${SEED:-1234}
TRAIN_ITERS=${TRAIN_ITERS:-60}
GOAL=0.9 # held-out accuracy that the trained model must reach
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Two processes need two GPUs or none; the CPU is enough for this model.
export CUDA_VISIBLE_DEVICES=${GPUS:-}

[[ $OUT == /* ]] || OUT=$PWD/$OUT
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${OUT#"$PWD"/}
if [[ -e $OUT && ! -e $OUT/.quickstart && -n $(ls -A "$OUT") ]]; then
    echo "error: OUT=$OUT is there and was not made by the quickstart; name another directory" >&2
    exit 2
fi
mkdir -p "$OUT"
touch "$OUT/.quickstart"
# Held until this run and what it started have ended.
exec 9< "$OUT/.quickstart"
if command -v flock > /dev/null && ! flock -n 9; then
    echo "error: another run is making OUT=$OUT; wait for its end, or name another directory" >&2
    exit 2
fi
# The mark stays, so that the next run knows the directory if this one is killed here.
find "$OUT/" -mindepth 1 -maxdepth 1 ! -name .quickstart -exec rm -rf {} +

# Of the python in use, whichever torchrun comes first on the PATH.
torchrun() { python -m torch.distributed.run "$@"; }

run() {
    local words
    printf -v words ' %q' "$@"
    printf '\n$%s\n' "${words//\\,/,}"
    "$@"
}

accuracy_of() { sed -n 's/^pairs: .*| accuracy: \([0-9.]*\) .*/\1/p' "$1"; }

run python examples/quickstart_data.py "$OUT" --seed "$SEED"

for part in train heldout; do
    run python preprocess_data.py \
        --input "$OUT/$part.jsonl" \
        --handler-name SharegptStylePairwiseHandler \
        --tokenizer-type PretrainedFromHF \
        --tokenizer-name-or-path "$OUT/base_model" \
        --prompt-type llama2 \
        --seq-length 512 \
        --output-prefix "$OUT/$part"
done

run python -m modellink_rm score \
    --load "$OUT/base_model" \
    --load-checkpoint-loosely \
    --prompt-type llama2 \
    --input "$OUT/heldout.jsonl" \
    --handler-name SharegptStylePairwiseHandler \
    --output "$OUT/scores_before.jsonl" \
    --seed "$SEED" | tee "$OUT/score_before.log"

run torchrun --standalone --nproc_per_node 2 pretrain_rm.py \
    --stage rm \
    --is-pairwise-dataset \
    --load-checkpoint-loosely \
    --load "$OUT/base_model" \
    --tokenizer-name-or-path "$OUT/base_model" \
    --prompt-type llama2 \
    --data-path "$OUT/train" \
    --valid-data-path "held-out=$OUT/heldout" \
    --split 95,5,0 \
    --tensor-model-parallel-size 2 \
    --seq-length 512 \
    --micro-batch-size 8 \
    --global-batch-size 16 \
    --train-iters "$TRAIN_ITERS" \
    --lr 1e-3 \
    --lr-decay-style cosine \
    --lr-warmup-fraction 0.1 \
    --log-interval 5 \
    --eval-interval 20 \
    --seed "$SEED" \
    --save "$OUT/reward_model"

run python -m modellink_rm score \
    --load "$OUT/reward_model" \
    --input "$OUT/heldout.jsonl" \
    --output "$OUT/scores_after.jsonl" | tee "$OUT/score_after.log"

run python -m modellink_rm evaluate \
    --load "$OUT/reward_model" \
    --data "held-out=$OUT/heldout.jsonl" \
    --output "$OUT/results.json"

run python -m modellink_rm report "$OUT/reward_model" --output "$OUT/report.html"

run python -m modellink_rm export --load "$OUT/reward_model" --output "$OUT/exported"

run python examples/open_in_transformers.py "$OUT/exported" "$OUT/heldout.jsonl" "$OUT/scores_after.jsonl"

before=$(accuracy_of "$OUT/score_before.log")
after=$(accuracy_of "$OUT/score_after.log")
cat <<END

held-out accuracy before training: $before (an untrained head)
held-out accuracy after training:  $after

$OUT/train.jsonl, heldout.jsonl    preference pairs
$OUT/base_model                    the model that training started from
$OUT/reward_model                  checkpoint and metrics.jsonl
$OUT/scores_after.jsonl            scores of the held-out pairs, a line each
$OUT/results.json                  the evaluation
$OUT/report.html                   curves, scores and pairs: open it in a browser
$OUT/exported                      the model for transformers, TRL and vLLM
END
if ! awk -v after="$after" -v goal="$GOAL" 'BEGIN { exit !(after >= goal) }'; then
    echo "error: held-out accuracy after training must be at least $GOAL" >&2
    exit 1
fi
