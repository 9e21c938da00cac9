"""From a download to a split: archives, labels, manifest, quality, split, demo corpus."""
