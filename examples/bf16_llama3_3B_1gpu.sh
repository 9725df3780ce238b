#!/usr/bin/env bash
# A reward model from Llama-3.2-3B-Instruct in bfloat16 on one GPU of 80 GB. The pairs first:
#
#   python preprocess_data.py --input pairs.jsonl --handler-name AlpacaStylePairwiseHandler \
#       --tokenizer-name-or-path llama-3.2-3b-instruct --prompt-type llama3 --output-prefix data/llama3
#   LOAD=llama-3.2-3b-instruct DATA=data/llama3 SAVE=checkpoints/llama3-3b bash examples/bf16_llama3_3B_1gpu.sh
#
# Weights, gradients and AdamW take 18 bytes a weight, 54 GiB here; 8 billion weights need two such GPUs.
# Beside them layers have room if norms and gates are computed again in the backward pass.
# `python -m modellink_rm estimate` has the numbers, for other GPUs and lengths too. Words after the script win.
set -euo pipefail
examples=$(dirname "${BASH_SOURCE[0]}")

words=(
    --stage rm --is-pairwise-dataset
    --load "${LOAD:-llama-3.2-3b-instruct}" --load-checkpoint-loosely # a base model has no reward head yet
    --data-path "${DATA:-data/llama3}" --split 98,2,0
    --save "${SAVE:-checkpoints/llama3-3b}" --save-interval 200
    --auto-resume --exit-signal-handler # start it again after any stop, and it goes on
    --bf16                              # weights and activations; sums and optimizer stay float32
    --recompute-granularity selective   # outputs of norms and gates are computed again, not kept
    --seq-length 4096                   # longer pairs are truncated
    --max-tokens-per-micro-batch 8192   # of one forward pass, packed without padding
    --global-batch-size 64
    --train-iters "${TRAIN_ITERS:-2000}"
    --lr 2e-6 --lr-decay-style cosine --lr-warmup-fraction 0.03 --weight-decay 0.001
    --eval-interval 100 --log-interval 5
)
export NPROC=${NPROC:-1}
exec bash "$examples/torchrun.sh" "$examples/../pretrain_rm.py" "${words[@]}" "$@"
