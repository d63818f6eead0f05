"""Whole-document mode: what every head copies on natural text, over all rows, without a needle.

run.py is the way in, counting.py what attention leaves behind, possible.py the denominator, profile.py the result,
file.py its file.
"""
