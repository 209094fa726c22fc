"""The SGLang backend. Runs in SGLang's own environment."""
