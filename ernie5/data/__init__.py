"""From files to batches: manifests, samples, mixture, packing into unified sequences, the resumable loader."""
