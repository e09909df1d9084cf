"""The LSTM learns what it was invented for: to use, at the end of a sequence, what was said at its beginning."""
