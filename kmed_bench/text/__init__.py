"""Korean text: transcript marks, normalisation, numbers, medical terms, accepted spellings. No audio, no torch."""
