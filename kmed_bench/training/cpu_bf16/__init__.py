"""Training in bf16 on a CPU: layers, output loss and memory allocation that make it fast."""
