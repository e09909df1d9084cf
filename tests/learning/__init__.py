"""Problems that an LSTM must be able to learn, trained as a user would train it."""
