"""What every room uses: errors, files, schema, records, console."""
