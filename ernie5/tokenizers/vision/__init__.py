"""Vision tokenizer: a causal multi-scale bit-wise autoencoder (report §2.2.1)."""
