"""Data sets: their videos with classes, groups and sides; downloading and generating them."""
