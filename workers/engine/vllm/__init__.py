"""The vLLM backend. Runs in vLLM's own environment."""
