"""Between text and token ids: prompts in, streamed output back, the same for every backend."""
