"""From audio to log-mel frames, and the frames' store on disk."""
