#!/usr/bin/env bash
# A reward model from ChatGLM3-6B on 8 devices, float32. The pairs first:
#
#   python preprocess_data.py --input pairs.jsonl --handler-name AlpacaStylePairwiseHandler \
#       --tokenizer-name-or-path chatglm3-6b --prompt-type chatglm3 --output-prefix data/chatglm3
#   LOAD=chatglm3-6b DATA=data/chatglm3 SAVE=checkpoints/chatglm3 bash examples/reward_chatglm3_6B.sh
#
# Any setting: TP=4 PP=2 LR=1e-6 bash examples/reward_chatglm3_6B.sh --bf16 --auto-resume
set -euo pipefail
examples=$(dirname "${BASH_SOURCE[0]}")

export SHAPE=${SHAPE:-$examples/chatglm3_6B.args} PROMPT_TYPE=${PROMPT_TYPE:-chatglm3}
export LOAD=${LOAD:-chatglm3-6b} DATA=${DATA:-data/chatglm3} SAVE=${SAVE:-checkpoints/chatglm3}
export TP=${TP:-2} PP=${PP:-4} MBS=${MBS:-8} GBS=${GBS:-8} SEQ_LENGTH=${SEQ_LENGTH:-1024}
export TRAIN_ITERS=${TRAIN_ITERS:-2000} LR=${LR:-1e-7} SPLIT=${SPLIT:-9798,200,0}

exec bash "$examples/launch_reward.sh" --no-post-layer-norm "$@"
