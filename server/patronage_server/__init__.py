"""The operator's side: drives a round, checks adapters, evaluates, values, pays and publishes."""
