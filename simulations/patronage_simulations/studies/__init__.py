"""Studies, each a command of its own that prints the figures on which a choice of ours rests."""
