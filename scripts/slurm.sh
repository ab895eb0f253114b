#!/usr/bin/env bash
# Trains on several GPUs of several nodes under SLURM:
#
#     sbatch scripts/slurm.sh --config d8.yaml --data.root /data/blood-cells.zip
#
# What stands after the script's name is passed on to `bloodcell fit`. One task a GPU: Lightning
# reads the number of nodes, the ranks and the address of the first node from SLURM's variables,
# so --ntasks-per-node must equal the GPUs of a node, and --trainer.devices likewise.
#SBATCH --job-name=bloodcell
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G                 # each task holds the decoded images, 1.9 GB for the Kaggle set
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.log
#SBATCH --signal=SIGUSR1@120      # two minutes before the end: Lightning saves and requeues
#SBATCH --requeue

set -euo pipefail

# sbatch copies this script elsewhere, so the project is where the job was submitted
cd "${BLOODCELL_HOME:-$SLURM_SUBMIT_DIR}"
source .venv/bin/activate

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
export NCCL_DEBUG=WARN            # say why, if the nodes cannot reach each other
# compute nodes without a network: load the trunk's weights once on the login node, then
# export HF_HUB_OFFLINE=1

# the batch is per GPU: 2 nodes x 4 GPUs x 32 images are 256 a step
srun python -m bloodcell fit \
  --trainer.accelerator gpu \
  --trainer.num_nodes "$SLURM_JOB_NUM_NODES" \
  --trainer.devices "$SLURM_NTASKS_PER_NODE" \
  --trainer.strategy ddp \
  "$@"
