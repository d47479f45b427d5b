"""Tokenizers as services of their own: they encode the media of coming batches while the backbone computes."""
