"""Members of zips, tars and split downloads, and the headers of their WAV files."""
