"""The original benchmark's log format, and its import as labelled runs."""
