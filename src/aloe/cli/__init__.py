"""The command line: words in and words out, one file per verb, no logic."""
