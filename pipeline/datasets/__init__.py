"""Data sets: which videos there are, their classes, groups and sides; fetching and drawing them."""
