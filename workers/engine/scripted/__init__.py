"""An engine without a model that says what its spec tells it to: for tests, benches and trials."""
