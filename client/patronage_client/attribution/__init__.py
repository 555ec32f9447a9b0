"""What single pairs are worth to the owner who holds them; nothing here leaves the owner's machine.

    recorder     per-pair LoRA gradients of one backward pass     adapter_model  the policy, its pair losses
    problem      what a valuation starts from and returns         methods        the registry of methods
    optimisers   SGD and AdamW as functions, with derivatives     course         a training, step by step
    in_run, influence   two ways to value pairs                   terms          how the training would go
    table        JSON Lines, Parquet and a picture                value          the command's work

Every method takes a `Problem` and gives a `Valuation`: one number a pair, higher = helps.
Methods import torch; this package does so when a method runs.
"""
