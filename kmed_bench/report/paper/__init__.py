"""A benchmark's tables, figures and paragraphs in the form that a paper takes."""
