"""The tables that come with the product. Their counts, and the reports of their fits, are beside them."""

SNAPDRAGON_865 = "snapdragon865-a77-1core-fp32"
"""Estimated, see `latency_lut.estimate`; the table of whoever has measured none."""
