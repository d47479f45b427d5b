"""For each modality: embed, head, loss, and how its groups of tokens are laid out in the unified sequence."""
