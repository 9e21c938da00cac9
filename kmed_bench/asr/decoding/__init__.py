"""From encoder output to text: options, logit filters, greedy and beam search."""
