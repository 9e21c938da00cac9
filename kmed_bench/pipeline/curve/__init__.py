"""`curve`: one size trained on nested amounts of speech, and how its error falls with the amount."""
