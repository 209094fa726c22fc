"""Pictures in prompts of the HF engine: read to tensors, then to features in place of tokens."""
