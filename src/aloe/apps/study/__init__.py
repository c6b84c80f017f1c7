"""The human preference study (the paper's Figure B5 and Table B7): which of two maps explains a prediction better?

`build` draws images and maps into one SQLite file, `server` shows them to participants and writes down their answers, `fit`
turns the answers into Bradley-Terry scores, and `power` says beforehand how many answers that takes.
"""
