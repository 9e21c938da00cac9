"""From audio to log-mel frames, and their store on disk."""
