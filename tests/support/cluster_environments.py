"""Variables as SLURM, Kubernetes and Kubeflow set them, for one process each."""

# One task of `srun` in a job of two nodes with eight GPUs each, as SLURM 22.05 sets it.
STEP = {
    "SLURM_JOB_ID": "4",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
}
GPUS = {"SLURM_GPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}
ALL_ON_ONE = {
    **STEP,
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "n1",
    "SLURM_STEP_TASKS_PER_NODE": "8",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "0",
    "SLURM_LOCALID": "3",
}
TWO_ON_ONE = {
    **ALL_ON_ONE,
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
}
BATCH_SCRIPT = {
    "SLURM_JOB_ID": "4",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
POD = {
    "JOB_COMPLETION_INDEX": "2",
    "JAX_NUM_PROCESSES": "4",
    "JAX_COORDINATOR_ADDRESS": "train-0.train:8476",
    "HOSTNAME": "train-2",
}
KUBEFLOW = {
    "JAX_COORDINATOR_ADDRESS": "mnist-worker-0:6666",
    "JAX_NUM_PROCESSES": "3",
    "JAX_PROCESS_ID": "1",
}


def without(environ, *names):
    return {name: value for name, value in environ.items() if name not in names}
