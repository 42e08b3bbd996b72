"""Results of several models and runs side by side: tables, figures, paired statistics, and answers to read."""
