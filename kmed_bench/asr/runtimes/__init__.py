"""Other runtimes that decode the same clips, and the Hugging Face format."""
