"""Drawing train, valid and test parts: quotas, disjointness, leakage, frozen splits."""
