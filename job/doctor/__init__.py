"""`doctor`: what of this machine and of the stores would stand in a job's way, and what to do about it."""

from job.doctor.examination import examine
from job.doctor.findings import Finding, exit_code, to_json, to_text

__all__ = ["Finding", "examine", "exit_code", "to_json", "to_text"]
