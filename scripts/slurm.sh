#!/usr/bin/env bash
# Trains on several GPUs of several nodes under SLURM:
#
#     sbatch scripts/slurm.sh --config d8.yaml --data.root /data/blood-cells.zip
#
# The arguments after the script's name are passed to `bloodcell fit`. One task per GPU: Lightning
# reads the number of nodes, the ranks and the address of the first node from SLURM's variables,
# so --ntasks-per-node must equal the GPUs of a node. Adapt the #SBATCH lines to your cluster.
#SBATCH --job-name=bloodcell
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G                 # the tasks of a node share the decoded images, 1.9 GB
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append        # a requeued job continues the same log
#SBATCH --requeue
#SBATCH --signal=B:USR1@60        # signals this script a minute before the end

set -euo pipefail

# sbatch copies this script, so the project is the folder in which the job was submitted
cd "${BLOODCELL_HOME:-$SLURM_SUBMIT_DIR}"
source .venv/bin/activate

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
export NCCL_DEBUG=WARN            # shows why nodes cannot reach each other
# compute nodes without a network: load the trunk's weights once on the login node, then
# export HF_HUB_OFFLINE=1

# A unique name, so that a requeued job finds its own run folder and resumes it. It is expected
# here, so do not use --name, --trainer.default_root_dir or --data.root drawn.
name="$SLURM_JOB_NAME-$SLURM_JOB_ID"

# Near the time limit, the job is requeued. SLURM then sends SIGTERM to the processes, which write
# a checkpoint after their step.
trap 'echo "out of time: requeued"; scontrol requeue "$SLURM_JOB_ID"' USR1

# the batch is per GPU: 2 nodes x 4 GPUs x 32 images are 256 per step
srun python -m bloodcell fit \
  --trainer.accelerator gpu \
  --trainer.num_nodes "$SLURM_JOB_NUM_NODES" \
  --trainer.devices "$SLURM_NTASKS_PER_NODE" \
  --trainer.strategy ddp \
  "$@" --name "$name" --resume auto &
job=$!
wait "$job" || { status=$?; wait "$job" || exit "$status"; }  # the trap ends the first wait
