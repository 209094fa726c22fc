"""`POST /v1/completions`: text or token prompts, without a chat format."""
