"""One fine-tuning job in one process: data, stage, checkpoints, adapter."""
