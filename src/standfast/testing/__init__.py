"""The public test kit: what tests of stores, ours or yours, are written with."""
