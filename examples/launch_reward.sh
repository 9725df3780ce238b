#!/usr/bin/env bash
# Shared by the reward_*.sh scripts, which set the defaults of one model: torchrun with pretrain_rm.py.
# Everything in capitals comes from the environment; the words after the script are passed on, last.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
exec bash "$root/examples/torchrun.sh" "$root/pretrain_rm.py" \
    --stage rm \
    --is-pairwise-dataset \
    --load-checkpoint-loosely \
    --finetune \
    "@$SHAPE" \
    --load "$LOAD" \
    ${TOKENIZER:+--tokenizer-name-or-path "$TOKENIZER"} \
    --prompt-type "$PROMPT_TYPE" \
    --data-path "$DATA" \
    --split "$SPLIT" \
    --save "$SAVE" \
    --tensor-model-parallel-size "$TP" \
    --pipeline-model-parallel-size "$PP" \
    --use-distributed-optimizer \
    --seq-length "$SEQ_LENGTH" \
    --micro-batch-size "$MBS" \
    --global-batch-size "$GBS" \
    --train-iters "$TRAIN_ITERS" \
    --lr "$LR" \
    --lr-decay-style "${LR_DECAY_STYLE:-constant}" \
    --lr-warmup-fraction "${LR_WARMUP_FRACTION:-0.0}" \
    --weight-decay "${WEIGHT_DECAY:-0.0}" \
    --clip-grad "${CLIP_GRAD:-1.0}" \
    --adam-beta1 "${ADAM_BETA1:-0.9}" \
    --adam-beta2 "${ADAM_BETA2:-0.999}" \
    --init-method-std "${INIT_METHOD_STD:-0.01}" \
    --log-interval "${LOG_INTERVAL:-1}" \
    --save-interval "${SAVE_INTERVAL:-1000}" \
    --eval-interval "${EVAL_INTERVAL:-1000}" \
    --eval-iters "${EVAL_ITERS:-10}" \
    "$@"
