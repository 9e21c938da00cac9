"""From encoder output to text: options, KV cache, logit filters, greedy and beam search."""
