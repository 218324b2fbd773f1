"""The clip store: layout, codecs, durable writing, reading, verification."""
