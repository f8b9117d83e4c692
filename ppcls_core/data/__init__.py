"""Images to batches: decoding, transforms, augmentation, loading by threads."""
