"""Clips from the store to the network: which ones, how they are read ahead, and what is made of them on the device."""
