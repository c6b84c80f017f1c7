"""Errors that are the user's to mend: one plain sentence that says what is wrong and what to do.

The command line prints the sentence and exits with code 2; every other exception is ours and keeps its traceback.
"""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave (a path, an option, a model): the message is shown as it stands."""
