"""The program's stages: prepare, train, test once, evaluate, export."""
