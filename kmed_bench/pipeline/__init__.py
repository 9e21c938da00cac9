"""The program's story: prepare, train, test once, evaluate, export."""
