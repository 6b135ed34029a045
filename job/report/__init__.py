"""The report: what a run found, as one self-contained page (report.html) and as text (report.md)."""
