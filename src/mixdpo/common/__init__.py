"""What every room may use and what knows no subject: errors, files, settings, statistics, tables, figures, pages."""
