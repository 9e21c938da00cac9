"""From a download's labels and audio to a manifest, with a reason for each utterance left out."""
