"""Decoding of more clips than one process or one machine should do: in shards, and joined again."""
