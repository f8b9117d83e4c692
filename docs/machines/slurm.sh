#!/bin/bash
# A training on two hosts of eight GPUs each: sbatch slurm.sh
# Paddle's launcher runs once a host; the first host of the allocation is the master.
#SBATCH --job-name=ppcls
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --signal=B:TERM@120
#SBATCH --requeue

set -euo pipefail
export MASTER="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):29500"

# 120 s before the time is up Slurm tells this script, and it tells the launchers: all processes
# save a checkpoint and end. The same command goes on from it.
trap 'kill -TERM "$STEP"; wait "$STEP"; scontrol requeue "$SLURM_JOB_ID"' TERM
srun --kill-on-bad-exit=1 bash -c '
  exec python -m paddle.distributed.launch --master "$MASTER" --nnodes "$SLURM_NNODES" \
    --rank "$SLURM_PROCID" --nproc_per_node 8 --log_dir "log/$SLURM_PROCID" \
    "$(which ppcls)" train -c job.yaml' &
STEP=$!
wait "$STEP"
