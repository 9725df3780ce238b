#!/usr/bin/env bash
# A reward model from Llama-3.1-8B-Instruct in bfloat16 on one node of 8 GPUs of 80 GB. The pairs first:
#
#   python preprocess_data.py --input pairs.jsonl --handler-name AlpacaStylePairwiseHandler \
#       --tokenizer-name-or-path llama-3.1-8b-instruct --prompt-type llama3 --output-prefix data/llama3
#   LOAD=llama-3.1-8b-instruct DATA=data/llama3 SAVE=checkpoints/llama3-8b bash examples/bf16_llama3_8B_8gpus.sh
#
# Two GPUs share each layer, so that nothing needs to be recomputed; the four pairs of GPUs are replicas.
# `python -m modellink_rm estimate` has the numbers, for other GPUs and lengths too. Words after the script win.
set -euo pipefail
examples=$(dirname "${BASH_SOURCE[0]}")

words=(
    --stage rm --is-pairwise-dataset
    --load "${LOAD:-llama-3.1-8b-instruct}" --load-checkpoint-loosely # a base model has no reward head yet
    --data-path "${DATA:-data/llama3}" --split 98,2,0
    --save "${SAVE:-checkpoints/llama3-8b}" --save-interval 200
    --auto-resume --exit-signal-handler # start it again after any stop, and it goes on
    --bf16                              # weights and activations; sums and optimizer stay float32
    --tensor-model-parallel-size 2      # two GPUs of a node share each layer's matrices
    --sequence-parallel                 # and what is between them, by tokens
    --use-distributed-optimizer         # the four replicas share AdamW's state
    --seq-length 4096                   # longer pairs are truncated
    --max-tokens-per-micro-batch 16384  # of one forward pass, packed without padding
    --global-batch-size 128
    --train-iters "${TRAIN_ITERS:-2000}"
    --lr 2e-6 --lr-decay-style cosine --lr-warmup-fraction 0.03 --weight-decay 0.001
    --eval-interval 100 --log-interval 5
)
exec bash "$examples/torchrun.sh" "$examples/../pretrain_rm.py" "${words[@]}" "$@"
