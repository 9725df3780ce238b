#!/usr/bin/env bash
# InternLM2's reward recipe (arXiv 2403.17297) on 8 devices, float32: focal loss, a penalty on scores outside of
# -5 to 5, and a score that is read at a token of its own. The pairs first, with that token after every answer:
#
#   python preprocess_data.py --input pairs.jsonl --handler-name AlpacaStylePairwiseHandler \
#       --tokenizer-name-or-path internlm2-7b --prompt-type intern2 --reward-token '<|reward|>' \
#       --output-prefix data/internlm2
#   LOAD=internlm2-7b DATA=data/internlm2 SAVE=checkpoints/internlm2 bash examples/reward_internlm2_7B.sh
#
# Then the form that InternLM2ForRewardModel reads, whose get_score appends the token itself:
#
#   python -m modellink_rm export --load checkpoints/internlm2 --output internlm2-reward
#
# Tokenizers of internlm2 without <|reward|> have [UNUSED_TOKEN_130] under its id, 92527.
# Any setting: TP=2 PP=4 LR=1e-6 bash examples/reward_internlm2_7B.sh --bf16 --auto-resume
set -euo pipefail
examples=$(dirname "${BASH_SOURCE[0]}")

export SHAPE=${SHAPE:-$examples/internlm2_7B.args} PROMPT_TYPE=${PROMPT_TYPE:-intern2}
export LOAD=${LOAD:-internlm2-7b} DATA=${DATA:-data/internlm2} SAVE=${SAVE:-checkpoints/internlm2}
export TP=${TP:-4} PP=${PP:-2} MBS=${MBS:-1} GBS=${GBS:-64} SEQ_LENGTH=${SEQ_LENGTH:-2048}
export TRAIN_ITERS=${TRAIN_ITERS:-2000} LR=${LR:-1e-5} SPLIT=${SPLIT:-9798,200,0}
export LR_DECAY_STYLE=${LR_DECAY_STYLE:-cosine} WEIGHT_DECAY=${WEIGHT_DECAY:-0.01}

exec bash "$examples/launch_reward.sh" --truncation keep-ends --min-lr 5e-6 \
    --loss-type focal --focal-gamma 2 --range-penalty-weight 0.02 --score-range -5 5 "$@"
