"""Stands in for torchaudio, which LLaMA-Factory imports at its start and uses for sound alone: of
this torch there is no build of it without CUDA."""
