"""Ours against torch.nn.LSTM: what `benchmarks/compare.py` and `benchmarks/report.py` are made of."""
