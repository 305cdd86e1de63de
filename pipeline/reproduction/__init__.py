"""The paper's findings, tested again: which runs, on which clips, and what follows from them."""
