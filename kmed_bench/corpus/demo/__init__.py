"""The generated demo corpus: synthetic speech in the download's layout."""
