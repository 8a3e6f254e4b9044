"""Data sets on disk and batches in memory."""
