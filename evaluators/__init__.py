"""What is a candidate worth? Costs, short trainings and the metrics they give, with a fingerprint on every number.

May import topformer, latency_lut, search_space, torch, numpy and fvcore.
"""
