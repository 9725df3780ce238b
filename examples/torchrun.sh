#!/usr/bin/env bash
# torchrun, on one node or several: NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT, and NPROC processes of each.
# The words after it are a Python program and its flags.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

NNODES=${NNODES:-1}
if ((NNODES == 1)); then
    nodes=(--standalone)
else
    nodes=(--nnodes "$NNODES" --node_rank "${NODE_RANK:?is the number of this node, from 0}"
        --master_addr "${MASTER_ADDR:?is the address of node 0}" --master_port "${MASTER_PORT:-6000}")
fi

exec python -m torch.distributed.run "${nodes[@]}" --nproc_per_node "${NPROC:-8}" "$@"
