#!/usr/bin/env bash
# Preferences in; a reward model, a policy tuned on the same pairs by DPO, and what the reward model says of both
# policies' answers out. Everything is made here: a small language model that answers questions well or badly,
# and a rule that judges its answers. Some minutes on two cores, without network or GPU.
#
#   bash examples/study.sh
#   OUT=/tmp/study SEED=7 bash examples/study.sh
set -euo pipefail

OUT=${OUT:-study_output}
SEED=${SEED:-1234}
LM_STEPS=${LM_STEPS:-300}
RM_STEPS=${RM_STEPS:-60}
DPO_STEPS=${DPO_STEPS:-120}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
export CUDA_VISIBLE_DEVICES=${GPUS:-}

[[ $OUT == /* ]] || OUT=$PWD/$OUT
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT=${OUT#"$PWD"/}
if [[ -e $OUT && ! -e $OUT/.study && -n $(ls -A "$OUT") ]]; then
    echo "error: OUT=$OUT is there and was not made by the study; name another directory" >&2
    exit 2
fi
mkdir -p "$OUT"
touch "$OUT/.study"
# Held until this run and what it started have ended.
exec 9< "$OUT/.study"
if command -v flock > /dev/null && ! flock -n 9; then
    echo "error: another run is making OUT=$OUT; wait for its end, or name another directory" >&2
    exit 2
fi
# The mark stays, so that the next run knows the directory if this one is killed here.
find "$OUT/" -mindepth 1 -maxdepth 1 ! -name .study -exec rm -rf {} +

run() {
    local words
    printf -v words ' %q' "$@"
    printf '\n$%s\n' "${words//\\,/,}"
    "$@"
}

# generate_with POLICY_DIR NAME: four answers to every question, with the rule's judgement beside them
generate_with() {
    run python -m modellink_rm generate \
        --load "$1" \
        --prompt-type llama2 \
        --input "$OUT/prompts.jsonl" \
        --num-answers 4 \
        --max-new-tokens 96 \
        --batch-size 64 \
        --seed "$SEED" \
        --output "$OUT/$2_answers.jsonl"
    run python examples/study_task.py judge "$OUT/$2_answers.jsonl" "$OUT/$2_judged.jsonl" |
        tee "$OUT/$2_rule.log"
}

# train_on_pairs STAGE STEPS SAVE FLAGS...
train_on_pairs() {
    run python pretrain_rm.py \
        --stage "$1" \
        --is-pairwise-dataset \
        --load "$OUT/base_model" \
        --tokenizer-name-or-path "$OUT/base_model" \
        --prompt-type llama2 \
        --data-path "$OUT/pairs" \
        --split 95,5,0 \
        --seq-length 256 \
        --micro-batch-size 16 \
        --global-batch-size 32 \
        --train-iters "$2" \
        --lr-decay-style cosine \
        --lr-warmup-fraction 0.1 \
        --log-interval 10 \
        --eval-interval 30 \
        --seed "$SEED" \
        --save "$OUT/$3" \
        "${@:4}"
}

run python examples/study_task.py make "$OUT" --seed "$SEED" --steps "$LM_STEPS"

# 1. Answers of the base policy, and preferences among them by the rule: of the training questions alone.
generate_with "$OUT/base_model" base
grep '"set": "train"' "$OUT/base_judged.jsonl" > "$OUT/train_judged.jsonl"
run python -m modellink_rm make-pairs --input "$OUT/train_judged.jsonl" --pairs all --output "$OUT/pairs.jsonl"
run python preprocess_data.py \
    --input "$OUT/pairs.jsonl" \
    --handler-name OpenAiMessagesPairwiseHandler \
    --tokenizer-name-or-path "$OUT/base_model" \
    --prompt-type llama2 \
    --seq-length 256 \
    --output-prefix "$OUT/pairs"

# 2. A reward model and a policy, both trained on these pairs.
train_on_pairs rm "$RM_STEPS" reward_model --load-checkpoint-loosely --lr 5e-4
train_on_pairs dpo "$DPO_STEPS" tuned_checkpoint --dpo-beta 0.1 --pref-ftx 1 --lr 5e-4
run python -m modellink_rm export --load "$OUT/tuned_checkpoint" --output "$OUT/tuned_model"

# 3. Answers of the tuned policy; the reward model's scores of both, and of the pairs that it was trained on.
generate_with "$OUT/tuned_model" tuned
for policy in base tuned; do
    run python -m modellink_rm score --load "$OUT/reward_model" --input "$OUT/${policy}_answers.jsonl" \
        --output "$OUT/${policy}_scores.jsonl"
done
run python -m modellink_rm score --load "$OUT/reward_model" --input "$OUT/pairs.jsonl" --keep none \
    --output "$OUT/training_scores.jsonl"

# 4. The comparison.
run python -m modellink_rm study \
    --answers "base=$OUT/base_scores.jsonl" "tuned=$OUT/tuned_scores.jsonl" \
    --by set \
    --training-scores "$OUT/training_scores.jsonl" \
    --output "$OUT/study.html" \
    --results "$OUT/study.json" | tee "$OUT/study.log"

good_of() { sed -n 's/^good answers, held-out: \([0-9.]*\) .*/\1/p' "$OUT/$1_rule.log"; }
before=$(good_of base)
after=$(good_of tuned)
cat <<END

good answers to held-out questions, by the rule: base $before, tuned $after

$OUT/prompts.jsonl                 the questions
$OUT/base_model, tuned_model       the policies
$OUT/reward_model                  the reward model
$OUT/study.html, study.json        what it says of their answers: open the page in a browser
END
if ! awk -v before="$before" -v after="$after" 'BEGIN { exit !(after >= before + 0.2) }'; then
    echo "error: DPO must raise the share of good answers by 0.2 or more" >&2
    exit 1
fi
