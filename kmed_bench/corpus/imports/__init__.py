"""From other people's recordings, in a list or in the layout of a public corpus, to a manifest."""
