"""The speech model: weights, features, batches, decoding, export."""
