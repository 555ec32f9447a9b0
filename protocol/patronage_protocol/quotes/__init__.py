"""Quotes: what pairs would be worth to a round, told from their text alone, before their owner joins.

    features    a pair as a vector of hashed n-grams      student   ridge regression on a large model's scores
    model       the signed file that carries a student    quote     values with intervals for an owner's pairs

The operator scores a public sample with the large model and fits the student; an owner needs the file, the
operator's key and numpy. Source: ALinFiK, Pan et al. 2025, arXiv 2503.01052.
"""
