"""LoRA per request: adapters side by side in one arena per layer, one batch mixing any of them."""
