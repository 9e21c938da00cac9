"""Decoding behind one interface: our own, and that of other libraries; and the Hugging Face format."""
