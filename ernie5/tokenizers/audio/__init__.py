"""Audio tokenizer: a streaming causal codec with residual vector quantisation (report §2.3)."""
