#!/usr/bin/env bash
# DPO of Llama-3.1-8B-Instruct in bfloat16 on one node of 8 GPUs of 80 GB. The pairs are those of a reward model:
#
#   python preprocess_data.py --input pairs.jsonl --handler-name AlpacaStylePairwiseHandler \
#       --tokenizer-name-or-path llama-3.1-8b-instruct --prompt-type llama3 --output-prefix data/llama3
#   LOAD=llama-3.1-8b-instruct DATA=data/llama3 SAVE=checkpoints/dpo bash examples/dpo_llama3_8B.sh
#   python -m modellink_rm export --load checkpoints/dpo --output llama-3.1-8b-dpo
#
# Words after the script win: bash examples/dpo_llama3_8B.sh --dpo-loss-type ipo --dpo-beta 0.5
set -euo pipefail
examples=$(dirname "${BASH_SOURCE[0]}")

words=(
    --stage dpo
    --load "${LOAD:-llama-3.1-8b-instruct}" # the policy, and the reference
    --data-path "${DATA:-data/llama3}" --split 98,2,0
    --save "${SAVE:-checkpoints/dpo}" --save-interval 200
    --auto-resume --exit-signal-handler # start it again after any stop, and it goes on
    --bf16                              # weights and activations; sums and optimizer stay float32
    --tensor-model-parallel-size 2      # two GPUs share each layer's matrices, and the vocabulary
    --sequence-parallel                 # and what is between them, by tokens
    --use-distributed-optimizer         # the four replicas share AdamW's state
    --seq-length 4096                   # longer pairs are truncated
    --max-tokens-per-micro-batch 16384  # of one forward pass, packed without padding
    --global-batch-size 128
    --train-epochs "${TRAIN_EPOCHS:-1}"
    --dpo-beta 0.1
    --lr 5e-7 --lr-decay-style cosine --lr-warmup-fraction 0.1
    --eval-interval 100 --log-interval 5
)
exec bash "$examples/torchrun.sh" "$examples/../pretrain_rm.py" "${words[@]}" "$@"
