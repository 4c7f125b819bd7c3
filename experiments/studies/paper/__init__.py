"""The paper's tables, one file each; `experiments/paper/tables.py` reads them."""
