"""Models from Hugging Face, ModelScope and Modelers: found, fetched, checked and kept."""
