"""Problems that an LSTM must be able to learn, as a user would have it learn them."""
