"""Exports: the rows of a config in the layout that another tool reads.

`choose.py` says which rows are of which split, `formats.py` what files a format makes of a row and at the end,
`folder.py` how they get into a folder that is whole or not there, and `run.py` puts the three together.
"""
