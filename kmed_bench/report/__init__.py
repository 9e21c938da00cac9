"""Tables, plots and the page made from tracked runs."""
