"""Korean text: transcript marks, normalisation, numbers, medical terms. No audio, no torch."""
