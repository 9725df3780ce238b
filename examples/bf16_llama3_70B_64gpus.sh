#!/usr/bin/env bash
# A reward model from Llama-3.1-70B-Instruct in bfloat16 on 8 nodes of 8 GPUs of 80 GB. The pairs first:
#
#   python preprocess_data.py --input pairs.jsonl --handler-name AlpacaStylePairwiseHandler \
#       --tokenizer-name-or-path llama-3.1-70b-instruct --prompt-type llama3 --output-prefix data/llama3
#   NNODES=8 NODE_RANK=0 MASTER_ADDR=10.0.0.1 LOAD=llama-3.1-70b-instruct DATA=data/llama3 SAVE=checkpoints/llama3-70b bash examples/bf16_llama3_70B_64gpus.sh
#
# On every node with its own NODE_RANK; LOAD, DATA and SAVE are on a file system that all nodes see.
# A node holds a quarter of the layers, its GPUs share each of them, and there are two replicas.
# `python -m modellink_rm estimate` has the numbers, for other GPUs and lengths too. Words after the script win.
set -euo pipefail
examples=$(dirname "${BASH_SOURCE[0]}")

words=(
    --stage rm --is-pairwise-dataset
    --load "${LOAD:-llama-3.1-70b-instruct}" --load-checkpoint-loosely # a base model has no reward head yet
    --data-path "${DATA:-data/llama3}" --split 98,2,0
    --save "${SAVE:-checkpoints/llama3-70b}" --save-interval 200
    --auto-resume --exit-signal-handler # start it again after any stop, and it goes on
    --bf16                              # weights and activations; sums and optimizer stay float32
    --tensor-model-parallel-size 8      # the GPUs of a node share each layer's matrices
    --sequence-parallel                 # and what is between them, by tokens
    --pipeline-model-parallel-size 4    # stages of 20 layers, one to a node
    --use-distributed-optimizer         # the two replicas share AdamW's state
    --seq-length 4096                   # longer pairs are truncated
    --max-tokens-per-micro-batch 8192   # of one forward pass, packed without padding
    --global-batch-size 128
    --train-iters "${TRAIN_ITERS:-2000}"
    --lr 1e-6 --lr-decay-style cosine --lr-warmup-fraction 0.03 --weight-decay 0.001
    --eval-interval 100 --log-interval 5
)
export NNODES=${NNODES:-8}
exec bash "$examples/torchrun.sh" "$examples/../pretrain_rm.py" "${words[@]}" "$@"
