"""Result rows to the paper's tables, plots and one page."""
