"""Clips from the store to the network: which clips, how they are read ahead, and their transform on the device."""
