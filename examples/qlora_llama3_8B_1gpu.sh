#!/usr/bin/env bash
# A reward model from Llama-3.1-8B-Instruct on one GPU of 24 GB: adapters and the head are trained in bfloat16,
# the model itself is held in 4 bits (QLoRA). The pairs first, as in bf16_llama3_3B_1gpu.sh; then:
#
#   LOAD=llama-3.1-8b-instruct DATA=data/llama3 SAVE=checkpoints/llama3-8b-qlora bash examples/qlora_llama3_8B_1gpu.sh
#   python -m modellink_rm score --load checkpoints/llama3-8b-qlora --input pairs.jsonl --output scores.jsonl
#   python -m modellink_rm export --load checkpoints/llama3-8b-qlora --output adapter
#
# With `pip install 'modellink-rm[qlora]'` a kernel of bitsandbytes makes the numbers of a matrix again.
# `python -m modellink_rm estimate` has the memory, for other ranks and lengths too. Words after the script win.
set -euo pipefail
examples=$(dirname "${BASH_SOURCE[0]}")

words=(
    --stage rm --is-pairwise-dataset
    --load "${LOAD:-llama-3.1-8b-instruct}" --load-checkpoint-loosely # a base model has no reward head yet
    --data-path "${DATA:-data/llama3}" --split 98,2,0
    --save "${SAVE:-checkpoints/llama3-8b-qlora}" --save-interval 200
    --auto-resume --exit-signal-handler # start it again after any stop, and it goes on
    --bf16 --load-in-4bit               # activations and adapters; the matrices of the layers
    --lora-r 16 --lora-alpha 32         # of all linear layers
    --lora-dropout 0.05
    --recompute-granularity full      # layers are computed again, one at a time
    --seq-length 2048                 # longer pairs are truncated
    --max-tokens-per-micro-batch 4096 # of one forward pass, packed without padding
    --global-batch-size 64
    --train-iters "${TRAIN_ITERS:-2000}"
    --lr 1e-4 --lr-decay-style cosine --lr-warmup-fraction 0.03 --weight-decay 0.0
    --eval-interval 100 --log-interval 5
)
export NPROC=${NPROC:-1}
exec bash "$examples/torchrun.sh" "$examples/../pretrain_rm.py" "${words[@]}" "$@"
