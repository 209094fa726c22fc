"""`POST /v1/embeddings`: texts or tokens to vectors."""
