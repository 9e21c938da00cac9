"""Tables, plots and pages: of tracked runs, of a tuning study, of a system's errors."""
