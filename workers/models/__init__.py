"""What engines and trainers share of models: rope, narrowed windows, adapters' files, and whether
examples packed into one row stay apart. Knows neither of them."""
