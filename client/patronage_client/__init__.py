"""The owner's side: keeps pairs and keys at home, trains a local adapter, answers the operator."""
