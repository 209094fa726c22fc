"""The supervisor: keeps engine workers running and carries out fine-tuning jobs."""
