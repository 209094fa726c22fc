"""One model in one process: socket loop, tokeniser, backend."""
