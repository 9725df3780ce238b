#!/usr/bin/env bash
# A reward model from Llama-2-7B on 8 devices, float32. The pairs first:
#
#   python preprocess_data.py --input pairs.jsonl --handler-name AlpacaStylePairwiseHandler \
#       --tokenizer-name-or-path llama-2-7b-hf --prompt-type llama2 --output-prefix data/llama2
#   LOAD=llama-2-7b-hf DATA=data/llama2 SAVE=checkpoints/llama2 bash examples/reward_llama2_7B.sh
#
# Any setting: TP=2 PP=4 LR=1e-6 bash examples/reward_llama2_7B.sh --bf16 --auto-resume
set -euo pipefail
examples=$(dirname "${BASH_SOURCE[0]}")

export SHAPE=${SHAPE:-$examples/llama2_7B.args} PROMPT_TYPE=${PROMPT_TYPE:-llama2}
export LOAD=${LOAD:-llama-2-7b-hf} DATA=${DATA:-data/llama2} SAVE=${SAVE:-checkpoints/llama2}
export TP=${TP:-4} PP=${PP:-2} MBS=${MBS:-1} GBS=${GBS:-8} SEQ_LENGTH=${SEQ_LENGTH:-2048}
export TRAIN_ITERS=${TRAIN_ITERS:-2000} LR=${LR:-1e-7} SPLIT=${SPLIT:-9798,200,0}

exec bash "$examples/launch_reward.sh" "$@"
