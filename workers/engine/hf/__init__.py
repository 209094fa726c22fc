"""Our own engine: continuous batching over a stock transformers model, LoRA per request."""
