"""LLaMA-Factory's settings of a training run, read as a job of ours."""
