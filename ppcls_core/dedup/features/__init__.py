"""An image as the duplicate search describes it: SIFT features, hashes, reduced copies."""
